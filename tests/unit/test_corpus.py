"""The synthetic corpus: what its README promises."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from kdstudio.project import Project
from kdstudio.project.exchange import import_file

CORPUS = resources.files("kdstudio").joinpath("resources", "corpus")
SCRIPT = Path(__file__).parents[2] / "packaging" / "make_corpus.py"
ROWS = [json.loads(line) for line in CORPUS.joinpath("chats.jsonl").read_text("utf-8").splitlines()]
CHATS = [(*row["tags"], *(message["content"] for message in row["messages"])) for row in ROWS]


def test_the_file_is_what_the_script_writes() -> None:
    assert subprocess.run([sys.executable, str(SCRIPT), "--check"], check=False).returncode == 0


def test_the_readme_counts_right() -> None:
    told = " ".join(CORPUS.joinpath("README.md").read_text("utf-8").split())
    tags, tasks = Counter(tag for tag, *_ in CHATS), Counter(task for _, task, *_ in CHATS)
    assert f"holds {len(ROWS):,} short chats" in told
    assert f"{tags['train']:,} rows carry the tag `train`; {tags['held_out']} carry `held_out`" in told
    assert f"{tasks['add']} additions, {tasks['sort']} lists of letters to sort" in told
    assert f"{tasks['copy']} lists of words to copy and {tasks['reverse']} to reverse" in told
    assert f"{tasks['tell']} sentences" in told
    assert set(tasks) == {"add", "sort", "copy", "reverse", "tell"}


def test_held_out_prompts_follow_from_their_text_and_none_comes_twice() -> None:
    assert len({prompt for *_, prompt, _ in CHATS}) == len(CHATS)
    for tag, _, prompt, _ in CHATS:
        assert (tag == "held_out") is (zlib.crc32(prompt.encode()) % 8 == 0)


def is_right(task: str, words: list[str], answer: str) -> bool:
    if task == "tell":
        return answer.startswith(f"{' '.join(words)} ")
    if task == "add":
        return answer == str(sum(map(int, words)))
    return answer.split() == {"sort": sorted(words), "copy": words, "reverse": words[::-1]}[task]


@pytest.mark.parametrize("task", ["add", "sort", "copy", "reverse", "tell"])
def test_every_answer_is_right(task: str) -> None:
    chats = [(prompt.split(), answer) for _, of, prompt, answer in CHATS if of == task]
    assert all(prompt[0] == task and is_right(task, prompt[1:], answer) for prompt, answer in chats)


def test_verbs_agree_with_the_subject_and_not_with_the_noun_beside_it() -> None:
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for _, task, prompt, answer in CHATS:
        if task == "tell":
            subject = prompt.removeprefix("tell ")
            many = subject.split()[1].endswith("s") or subject.split()[1] in ("children", "mice")
            found[many].add(answer.removeprefix(f"{subject} ").split()[0])
    assert len(found[True]) > 20
    assert not found[True] & found[False]
    assert all(verb.endswith("s") for verb in found[False])


def test_it_is_imported_as_it_is(tmp_path: Path) -> None:
    with resources.as_file(CORPUS.joinpath("chats.jsonl")) as path, Project.create(tmp_path / "corpus") as project:
        report = import_file(project, path)
        assert (report.rows, report.rejected) == (len(ROWS), 0)
        assert Counter(tag for prompt, _ in project.rows.pairs(status="any") for tag in prompt.tags[:1]) == Counter(
            tag for tag, *_ in CHATS
        )
