"""Writes the sample project's prompts, so that the file in `kdstudio/resources/sample/` can be made again.

Every prompt is an adjective and a noun ("a frozen whale"), some are numbers and plurals ("two robots"). Nouns are
divided into those that are trained on and those that are held out; adjectives are shared, so a held-out row asks what
the student makes of a thing it has never been told about. Some 1,100 pairs were tried with the sample teacher, a model
of 135 million parameters; the pairs below are those to which it gave one finished sentence about the thing, fit for a
child, rather than a remark about stories as such.

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

# noun: adjectives | noun: adjectives ...
TRAIN = """
anchor: forgotten rusty velvet | astronaut: crooked enchanted proud | baker: ancient brave tiny
bakery: friendly gentle glowing | bear: grumpy lonely patient | beaver: clumsy gentle lost
bell: cold flying frozen | butterfly: enchanted faded secret | cat: crooked gentle hungry
cave: ancient flying sleepy | cloud: crooked polite tired | comet: cold proud stubborn
crow: brave gentle nervous | desert: brave invisible rusty | dog: golden polite small
donkey: ancient nervous old | door: hungry lonely proud | dragon: invisible proud wooden
duck: curious old polite | elephant: glowing grumpy wise | forest: brave crooked shy
fountain: purple quiet wandering | fox: ancient grumpy tiny | frog: golden hungry patient
garden: ancient purple wandering | ghost: dusty glowing wild | giant: curious faded tiny
goose: forgotten small tiny | horse: hidden mysterious secret | island: silver tiny wise
kitten: flying quiet stubborn | lake: hidden nervous wandering | letter: cold hungry mysterious
library: invisible tired velvet | mailbox: hidden mysterious sleepy | meadow: crooked enormous purple
mermaid: dusty frozen silver | miner: golden lost tired | moon: brave frozen quiet
mountain: friendly hidden wild | museum: curious rusty velvet | mushroom: dusty shy wooden
orchard: mysterious purple shy | owl: clumsy lonely stubborn | painter: glowing lonely old
panda: golden nervous stubborn | penguin: enormous nervous polite | piano: golden rusty velvet
pilot: grumpy invisible proud | pirate: purple quiet small | pony: forgotten lost silver
pumpkin: clumsy rusty wandering | puppet: clumsy sleepy wise | rabbit: cold gentle lonely
river: grumpy shy tired | rocket: crooked enchanted wooden | seal: faded friendly old
snail: friendly mysterious wise | spider: enchanted quiet secret | squirrel: dusty lost secret
statue: curious enormous velvet | storm: friendly hidden sleepy | teapot: faded lost silver
tiger: clumsy faded forgotten | tortoise: frozen polite small | train: curious friendly stubborn
umbrella: dusty flying tired | valley: glowing small wooden | village: patient silver wild
violin: glowing shy sleepy | waterfall: clumsy frozen wise | whale: cold forgotten secret
whistle: brave enchanted enormous | wizard: gentle wandering wild
"""
TRAIN_PHRASES = (
    "a frozen whale",
    "two robots",
    "three sleepy bears",
    "two brave knights",
    "a pair of lost shoes",
    "two owls",
    "three lost kittens",
    "three pirates",
    "four curious foxes",
    "five hungry ducks",
    "a lost clock",
)

HELD_OUT = """
balloon: invisible lonely | camel: curious quiet | dolphin: ancient rusty | elevator: enchanted frozen
hedgehog: cold flying | inventor: proud stubborn | lighthouse: hungry sleepy | mouse: forgotten nervous shy
notebook: hidden purple | parrot: golden mysterious silver | swan: dusty invisible lost | wolf: nervous small
"""
HELD_OUT_PHRASES = ("an old lighthouse", "a brave mouse", "two polite wolves", "two quiet swans", "three brave mice")


def with_article(words: str) -> str:
    """Puts "a" or "an" before `words`, by the first letter, which is right for every word above."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrases(table: str) -> list[str]:
    """All pairs of a table, each as one phrase with its article."""
    entries = (entry.split(":") for entry in table.strip().replace("\n", "|").split("|"))
    return [
        with_article(f"{adjective} {noun.strip()}") for noun, adjectives in entries for adjective in adjectives.split()
    ]


def spread(train: list[str], held_out: list[str]) -> list[tuple[str, str]]:
    """Both kinds in one order, the held-out ones evenly apart, so that the first rows of the file are of both."""
    every = len(train) / len(held_out)
    placed = [(index + 0.5, "train", phrase) for index, phrase in enumerate(train)]
    placed += [((index + 0.6) * every, "held_out", phrase) for index, phrase in enumerate(held_out)]
    return [(tag, phrase) for _, tag, phrase in sorted(placed)]


def sample() -> str:
    """The whole file as text: one JSON object a line."""
    chance = random.Random(SEED)
    train = [*TRAIN_PHRASES, *phrases(TRAIN)]
    held_out = [*HELD_OUT_PHRASES, *phrases(HELD_OUT)]
    chance.shuffle(train)
    chance.shuffle(held_out)
    lines = []
    for tag, phrase in spread(train, held_out):
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
