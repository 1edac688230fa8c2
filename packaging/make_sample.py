"""Writes the sample project's prompts, so that the file in `kdstudio/resources/sample/` can be made again.

Every prompt is an adjective and a noun ("a frozen whale"), a few are plurals ("two robots"). The nouns stand in the
order of the alphabet, and every seventh is held out: a held-out row asks what the student makes of a thing it has never
been told about. Adjectives are shared. That rule and the seed decide everything about the held-out prompts; nobody
looked at the teacher's answers to them first. Among the training prompts, those that the sample teacher did not finish
within the 48 tokens that the demo allows are left out, so that no time is spent on answers that would be rejected.

    python packaging/make_sample.py            writes the file
    python packaging/make_sample.py --check    exit code 1 if the file differs from what would be written
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

SEED = 20
TARGET = Path(__file__).parents[1] / "kdstudio" / "resources" / "sample" / "prompts.jsonl"
SYSTEM = "Write one short sentence that starts a story about it."
HELD_OUT_EVERY = 7
PROMPTS_PER_NOUN = 3
MORE_SEED = 21  # drawn apart, so that the prompts above and the held-out ones stay what they were
MORE_PER_NOUN = 1

ADJECTIVES = """
ancient brave broken clever clumsy cold crooked curious dancing dusty enchanted enormous faded flying forgotten friendly
frozen gentle glowing golden grumpy happy hidden hungry invisible lonely lost magic mysterious nervous old patient
polite proud purple quiet rusty secret shy silent silver singing sleepy small stubborn tiny tired velvet wandering wild
wise wooden young
""".split()

NOUNS = """
acorn actor airship anchor ant apple apron architect astronaut bakery ball balloon barn basket bat beach bear beaver bee
beetle bell bench bicycle blanket blossom boat book boot bottle bowl bracelet bridge broom brush bucket bus butterfly
button cabin cactus cake camel camera candle canoe canyon carpenter carpet carriage cart castle cat cave chair chalk
cherry chess chest chicken clock cloud clown coat coin comb comet compass cook corn cottage cow crab crane crayon
cricket crow crown crystal cup cupboard curtain deer desert desk detective doctor dog doll dolphin donkey door dragon
dragonfly drawer dream drum duck eagle echo elephant elevator elf engine envelope explorer fairy falcon farmer feather
fence ferry fiddle firefly fisherman flag flower flute fog forest fountain fox frog garden gardener gate ghost giant
giraffe glacier glove goat goldfish goose grandmother guitar hammer harbor harp hat hedgehog hen heron hill horse hotel
house iceberg inventor island jacket jar jellyfish jeweler juggler kangaroo kettle key king kite kitten knight koala
ladder ladybug lake lamp lantern leaf lemon letter librarian library lighthouse lily lion lizard lobster lock machine
magician mailbox map market mask meadow mermaid miner mirror mole monkey moon moose moth mountain mouse museum mushroom
musician necklace needle nest notebook nurse oak ocean octopus orchard otter owl painter painting palace panda parrot
path peacock pebble pelican pencil penguin piano picture pig pigeon pillow pilot pirate planet poet pond pony postman
prince puddle pumpkin puppet puppy queen rabbit raccoon radio raft rainbow river robot rocket rooster rope rose sailor
sandcastle scarecrow scarf school scientist scooter seahorse seal seed shadow shark sheep shell shepherd ship shoe shop
singer sled snail snake snowflake snowman sock spider spoon squirrel star statue storm street submarine suitcase sun
swan table tailor teacher teapot telescope tent theater tiger tortoise tower toy tractor train tree trumpet tulip tunnel
turtle umbrella valley village violin volcano wagon waiter wall walrus watch waterfall well whale wheel whistle window
wizard wolf zebra
""".split()

TRAIN_PHRASES = (
    "three sleepy bears",
    "two wise wizards",
    "two penguins",
    "a pair of lost socks",
    "two owls",
    "three lost kittens",
    "three pirates",
    "four curious foxes",
    "five hungry ducks",
)

UNFINISHED = """
a silver airship | a crooked apple | a proud ball | a cold balloon | a frozen bat | a stubborn bear
a gentle bicycle | a shy blanket | a singing blanket | a happy blanket | a lonely book | a magic bowl
a wandering butterfly | a curious cabin | a wild candle | a polite carpenter | a gentle castle | a silver chest
a dusty cloud | a tired clown | an ancient clown | a hungry coin | a tired cook | an ancient cow | a flying crane
a silent crayon | a dancing cup | a mysterious detective | a silent doctor | a dancing dog | a curious dolphin
a wandering dolphin | a friendly donkey | a hungry dragonfly | a purple duck | a tiny echo | a singing echo
a hidden elf | a nervous engine | a sleepy envelope | a grumpy fairy | a velvet falcon | a tired farmer
a stubborn farmer | a velvet fence | a tiny fisherman | a silver flag | an enormous flag | a dancing giant
a tiny giant | a quiet giraffe | a small glove | a mysterious glove | a lonely grandmother | a silver guitar
a golden harp | a hungry hen | a wooden heron | a wooden hotel | a crooked key | a velvet king | a silver kite
a brave lantern | a small librarian | a broken lizard | a nervous machine | a stubborn mailbox | a dusty mask
a polite monkey | an ancient mouse | a wandering needle | a hungry octopus | a brave orchard | a silent path
a velvet penguin | a wild piano | a young picture | an ancient pig | a magic pillow | a brave pilot
a patient puppet | a broken puppy | a wise radio | a golden rope | a faded sailor | a forgotten school
a silver seahorse | a magic shadow | a friendly shark | a wild sheep | a dusty shop | a dusty sled
a wandering sled | a secret snake | an invisible squirrel | a stubborn table | a mysterious table | a cold teacher
an enormous teapot | a gentle telescope | a tiny toy | a shy valley | an enchanted wagon | a young waiter
a sleepy waiter | a forgotten walrus | a golden watch | a wise waterfall | a shy wheel | a polite wheel
an ancient whistle | an invisible wizard | a young wolf | a nervous bracelet | a stubborn canoe | a wandering chest
an enormous clown | a cold corn | a tiny cricket | a silver cup | a magic dog | a dusty donkey | an invisible dream
a lost elf | a clumsy fisherman | a singing flower | a shy gardener | an enormous giraffe | a wise hammer
a clumsy hill | an enchanted island | a polite ladybug | a shy library | a clever market | a nervous mirror
a magic moose | a hungry mountain | a stubborn mouse | an enchanted mushroom | a dusty musician | a velvet needle
a wild otter | a nervous pencil | a secret pilot | a glowing planet | a tired pumpkin | a silent rocket
a gentle rope | a brave shark | a frozen squirrel | an enchanted statue | an enormous street | a purple tiger
a happy watch | a broken whale | a friendly wheel | a magic whistle | a grumpy wizard | a wandering wolf
"""


def with_article(words: str) -> str:
    """Puts "a" or "an" before `words`, by the first letter, which is right for every adjective above."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def draw() -> tuple[list[str], list[str]]:
    """All training and held-out phrases, before unfinished ones are left out; several for a noun, one if held out."""
    chance, more = random.Random(SEED), random.Random(MORE_SEED)
    train, held_out, added = list(TRAIN_PHRASES), [], []
    for place, noun in enumerate(sorted(NOUNS), start=1):
        adjectives = chance.sample(ADJECTIVES, PROMPTS_PER_NOUN)
        phrases = [with_article(f"{adjective} {noun}") for adjective in adjectives]
        if place % HELD_OUT_EVERY == 0:
            held_out.append(phrases[0])
        else:
            train += phrases
            others = [adjective for adjective in ADJECTIVES if adjective not in adjectives]
            added += [with_article(f"{adjective} {noun}") for adjective in more.sample(others, MORE_PER_NOUN)]
    chance.shuffle(train)
    chance.shuffle(held_out)
    more.shuffle(added)
    return [*train, *added], held_out


def spread(train: list[str], held_out: list[str]) -> list[tuple[str, str]]:
    """Both kinds in one order, the held-out ones evenly apart, so that the first rows of the file are of both."""
    every = len(train) / len(held_out)
    placed = [(index + 0.5, "train", phrase) for index, phrase in enumerate(train)]
    placed += [((index + 0.6) * every, "held_out", phrase) for index, phrase in enumerate(held_out)]
    return [(tag, phrase) for _, tag, phrase in sorted(placed)]


def sample() -> str:
    """The whole file as text: one JSON object a line."""
    train, held_out = draw()
    unfinished = {phrase.strip() for phrase in UNFINISHED.replace("\n", "|").split("|")}
    finished = [phrase for phrase in train if phrase not in unfinished]
    lines = []
    for tag, phrase in spread(finished, held_out):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": phrase}]
        lines.append(json.dumps({"messages": messages, "tags": [tag]}))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Writes or checks the file."""
    parser = argparse.ArgumentParser(description="Write the sample project's prompts.")
    parser.add_argument("--check", action="store_true", help="only say whether the file is up to date")
    wanted = sample()
    if parser.parse_args().check:
        return 0 if TARGET.read_text(encoding="utf-8") == wanted else 1
    TARGET.write_text(wanted, encoding="utf-8")
    print(f"{len(wanted.splitlines())} prompts written to {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
