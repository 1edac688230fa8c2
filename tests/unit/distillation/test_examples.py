"""Rows in tokens: what is learnt, and that there is always something to learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdstudio.catalogue.training import DataTable
from kdstudio.distillation.batches import collate
from kdstudio.distillation.examples import SourceRow, encode_rows, last_user_text
from kdstudio.distillation.frozen_rows import frozen_rows
from kdstudio.distillation.rows import split_rows
from kdstudio.errors import BadInput
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.students.save import open_tokenizer
from tests.tiny import CHATML, tiny_model
from tests.unit.distillation.setting import source_rows


class Endless:
    """A tokenizer of bytes that has no token to end a turn with."""

    vocabulary_size = 256
    fingerprint = ""
    template = CHATML.replace("<|im_end|>", "")
    bos_token = eos_token = ""
    eos_id = None
    end_ids: frozenset[int] = frozenset()

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(text.strip().encode())

    def piece(self, token: int) -> bytes:
        return bytes([token])


def test_only_the_response_and_the_end_of_its_turn_are_learnt() -> None:
    tokenizer = open_tokenizer(tiny_model())
    examples, too_long = encode_rows(tokenizer, source_rows(7), 512)
    assert too_long == []
    for example, row in zip(examples, source_rows(7), strict=True):
        said = b"".join(tokenizer.piece(token) for token in example.response_ids.tolist())
        assert said.decode() == row.text
        assert example.response_ids[-1] == tokenizer.eos_id
        assert example.prompt == row.messages[1]["content"]
        batch = collate([example], [0])
        assert batch.labels.tolist() == example.response_ids.tolist()


def test_an_empty_mask_is_an_error() -> None:
    row = SourceRow(1, 7, ({"role": "user", "content": "hello"},), "")
    with pytest.raises(BadInput, match="nothing to learn") as caught:
        encode_rows(Endless(), [row], 512)
    assert "Response 7" in caught.value.detail


def test_long_rows_are_named() -> None:
    rows = source_rows(8)
    examples, too_long = encode_rows(open_tokenizer(tiny_model()), rows, 55)
    assert len(examples) + len(too_long) == 8
    assert set(too_long) == {row.response_id for row in rows} - {example.response_id for example in examples}
    assert too_long


def test_the_last_user_text_is_found_in_parts_too() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert last_user_text([{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]) == "a b"
    assert last_user_text([{"role": "system", "content": "x"}]) == ""


@pytest.mark.parametrize(
    ("tags", "weight"),
    [
        ((), 1.0),
        (("weight:0.3",), 0.3),
        (("held", "weight:2", "weight:5"), 2.0),
        (("weight:", "weight:-1", "weight:1e3", "weight:.5", "xweight:4", "weight:0.7x"), 1.0),
        (("weight:0",), 0.0),
    ],
)
def test_a_weight_is_what_its_tag_says(tags: tuple[str, ...], weight: float) -> None:
    made, _ = encode_rows(open_tokenizer(tiny_model()), [replace(source_rows(1)[0], tags=tags)], 512)
    assert made[0].weight == weight


@pytest.mark.parametrize("reasoning", ["", "the old fox", "step one\n\nstep two, and a ünïcode 🦊"])
def test_reasoning_is_learnt_in_front_and_its_tokens_are_counted(reasoning: str) -> None:
    tokenizer = open_tokenizer(tiny_model())
    (example,), _ = encode_rows(tokenizer, [replace(source_rows(3)[2], reasoning=reasoning)], 512)
    pieces = [tokenizer.piece(token) for token in example.response_ids.tolist()]
    thought = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
    whole = f"{thought}{example.response}".encode()
    assert b"".join(pieces) == whole
    assert b"".join(pieces[: example.rationale]) == thought.encode()[: len(b"".join(pieces[: example.rationale]))]
    # All of the reasoning's tokens are counted, but for one that reaches into the answer
    assert len(b"".join(pieces[: example.rationale + 1])) > len(thought.encode())
    assert (example.rationale > 0) is bool(reasoning)
    assert [whole[start:stop] for start, stop in example.spans] == pieces
    assert len(example.spans) == len(example.response_ids)


def preference_rows() -> list[SourceRow]:
    """A pair, a pair with one long side, a list of three with a long one, and two that are worth the same."""
    made = []
    long = "who sang another song " * 6
    for group, (texts, scores) in enumerate(
        [
            (("the fox", "a king"), (1.0, 0.0)),
            (("the fox", long), (0.0, 1.0)),
            (("the fox", long, "a king"), (1.0, 5.0, 3.0)),
            (("the fox", "a king", long), (2.0, 2.0, 0.0)),
        ],
        start=1,
    ):
        source = source_rows(4)[group - 1]
        made += [
            replace(source, text=text.strip(), group=group, score=score, response_id=group)
            for text, score in zip(texts, scores, strict=True)
        ]
    return made


def test_a_preference_with_too_little_left_falls_out_whole() -> None:
    made, too_long = encode_rows(open_tokenizer(tiny_model()), preference_rows(), 60)
    assert too_long == [2, 3, 4]
    rows = split_rows(made, DataTable(held_out=0.0), 0)
    kept = [(example.group, example.score) for example in rows.examples]
    assert kept == [(1, 1.0), (1, 0.0), (3, 1.0), (3, 3.0)]  # a list of three goes on as a pair; equals teach nothing
    assert rows.units == ((0, 1), (2, 3))


def test_rows_of_their_own_are_never_taken_for_a_preference() -> None:
    made, _ = encode_rows(open_tokenizer(tiny_model()), source_rows(4), 512)
    rows = split_rows(made, DataTable(held_out=0.0), 0)
    assert rows.units == ((0,), (1,), (2,), (3,))


def test_tools_of_a_row_reach_the_template_and_results_are_not_learnt(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "count"}}]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "count"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "forty-two"},
    ]
    with Project.create(tmp_path / "p") as project:
        (prompt,) = project.rows.put_prompts([NewPrompt(turns, extras={"tools": tools}, status="accepted")])[0]
        project.rows.add_responses([NewResponse(prompt, "There are 42.", status="accepted")])
    (tmp_path / "run").mkdir()
    frozen_rows(tmp_path / "run", project.folder, DataTable(), preferences=False)
    rows = frozen_rows(tmp_path / "run", project.folder, DataTable(), preferences=False)  # read back from its file
    tokenizer = open_tokenizer(tiny_model(layers=2))
    ((example,), _) = encode_rows(tokenizer, rows, 512)
    read = b"".join(tokenizer.piece(token) for token in example.prompt_ids.tolist()).decode()
    assert "You can call these tools" in read
    assert "forty-two" in read
    assert b"".join(tokenizer.piece(token) for token in example.response_ids.tolist()) == b"There are 42."
