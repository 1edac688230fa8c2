"""Writes the synthetic corpus, so that the file in `kdstudio/resources/corpus/` can be made again.

Short chats of a small grammar, on which a teacher of a million weights is trained from nothing within minutes: adding
two numbers, sorting letters, copying and reversing words, and sentences that begin as the prompt does. The first four
have one right answer. A sentence has many: its verb must agree with the subject (and not with the noun beside it), and
what follows is drawn, common words more often than rare ones, so that a teacher has a distribution to teach.

A prompt is held out when the CRC-32 of its text divides by 8. That rule and the seed decide everything.

    python packaging/make_corpus.py            writes the file
    python packaging/make_corpus.py --check    exit code 1 if the file differs from what would be written
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

SEED = 30
TARGET = Path(__file__).parents[1] / "kdstudio" / "resources" / "corpus" / "chats.jsonl"
HELD_OUT_ONE_IN = 8

NOUNS = """
cat dog fox bird child king queen farmer robot sailor bear mouse horse doctor teacher wolf crab duck goat lion owl pig
rat seal snake swan tiger whale baker clerk cook dancer driver girl boy guard judge knight lawyer miner nurse painter
pilot pirate poet player rider runner singer tailor writer apple bag ball basket bell boat book boot bottle bowl bridge
bucket cake candle car cart chair clock cloud coat coin cup desk door drum farm flag flower garden gate glove hammer hat
hill house island jar kettle key kite ladder lamp leaf letter map mirror moon needle nest pan pen picture pillow plate
pond ring river road rock roof rope scarf shell ship shoe spoon star stone storm table tent tower train tree tunnel wall
wheel window
""".split()

VERBS = """
see like find follow help want hear call draw carry meet need watch hold know paint bring clean count guide hide keep
lift move open pull reward save sell show take thank touch trust visit welcome
""".split()

ADJECTIVES = """
old small big young red quiet happy blue cold brave green tall kind dark slow golden silent lonely clever gentle hungry
proud tired wild wise
""".split()

FEW = 24
"""Nouns that are copied and reversed: so few that two hundred chats are enough to learn it from."""

PLACES = "near behind above beside under".split()
IRREGULAR = {"child": "children", "mouse": "mice", "wolf": "wolves", "leaf": "leaves"}


def plural(noun: str) -> str:
    """The plural of a noun above."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    return f"{noun}es" if noun.endswith(("x", "ch", "sh", "s")) else f"{noun}s"


def third_person(verb: str) -> str:
    """What one of them does."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("ch", "sh", "s")) else f"{verb}s"


def common_first(chance: random.Random, words: list[str]) -> str:
    """One of the words, the n-th drawn 1 / (n + 3) as often as a word in front of the first would be (Zipf's law)."""
    return chance.choices(words, [1 / (place + 4) for place in range(len(words))])[0]


def addition(chance: random.Random) -> tuple[str, str]:
    """Two numbers below twenty and their sum."""
    first, second = chance.randrange(20), chance.randrange(20)
    return f"add {first} {second}", str(first + second)


def sorting(chance: random.Random) -> tuple[str, str]:
    """Three or four letters in the order of the alphabet."""
    letters = chance.sample(string.ascii_lowercase, chance.randint(3, 4))
    return f"sort {' '.join(letters)}", " ".join(sorted(letters))


def copying(chance: random.Random) -> tuple[str, str]:
    """Two or three words as they stand."""
    words = chance.sample(NOUNS[:FEW], chance.randint(2, 3))
    return f"copy {' '.join(words)}", " ".join(words)


def reversing(chance: random.Random) -> tuple[str, str]:
    """Two or three words from the last to the first."""
    words = chance.sample(NOUNS[:FEW], chance.randint(2, 3))
    return f"reverse {' '.join(words)}", " ".join(reversed(words))


def sentence(chance: random.Random) -> tuple[str, str]:
    """A subject, perhaps beside another noun, and a sentence about it."""
    many = chance.random() < 0.5
    noun = chance.choice(NOUNS)
    subject = f"the {plural(noun) if many else noun}"
    if chance.random() < 0.6:
        other = chance.choice(NOUNS)
        subject += f" {chance.choice(PLACES)} the {plural(other) if chance.random() < 0.5 else other}"
    verb = common_first(chance, VERBS)
    said = [subject, verb if many else third_person(verb), thing(chance)]
    if chance.random() < 0.3:
        said += [chance.choice(PLACES), thing(chance)]
    return f"tell {subject}", " ".join(said)


def thing(chance: random.Random) -> str:
    """A noun with what stands before it."""
    adjective = f"{common_first(chance, ADJECTIVES)} " if chance.random() < 0.4 else ""
    noun = common_first(chance, NOUNS)
    kind = chance.choice(["the", "a", "two"])
    words = f"{adjective}{plural(noun) if kind == 'two' else noun}"
    return f"{'an' if kind == 'a' and words[0] in 'aeiou' else kind} {words}"


TASKS: dict[str, tuple[Callable[[random.Random], tuple[str, str]], int]] = {
    "add": (addition, 320),
    "sort": (sorting, 360),
    "copy": (copying, 360),
    "reverse": (reversing, 360),
    "tell": (sentence, 740),
}
"""What makes a chat of each task, and how many there are."""


def chats() -> list[tuple[str, str, str]]:
    """(task, prompt, answer) of every chat, no prompt twice, in an order in which all tasks mix."""
    made: list[tuple[str, str, str]] = []
    for task, (make, count) in TASKS.items():
        chance, found = random.Random(f"{SEED} {task}"), dict[str, str]()
        while len(found) < count:
            found.setdefault(*make(chance))
        made += [(task, prompt, answer) for prompt, answer in found.items()]
    random.Random(SEED).shuffle(made)
    return made


def held_out(prompt: str) -> bool:
    """Whether a prompt only measures: by its text alone, so that chats added later move none."""
    return zlib.crc32(prompt.encode()) % HELD_OUT_ONE_IN == 0


def corpus() -> str:
    """The whole file as text: one JSON object a line."""
    lines = []
    for task, prompt, answer in chats():
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        tags = ["held_out" if held_out(prompt) else "train", task]
        lines.append(json.dumps({"messages": messages, "tags": tags}, separators=(",", ":")))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Writes or checks the file."""
    parser = argparse.ArgumentParser(description="Write the synthetic corpus.")
    parser.add_argument("--check", action="store_true", help="only say whether the file is up to date")
    wanted = corpus()
    if parser.parse_args().check:
        return 0 if TARGET.read_text(encoding="utf-8") == wanted else 1
    TARGET.write_text(wanted, encoding="utf-8")
    print(f"{len(wanted.splitlines())} chats written to {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
