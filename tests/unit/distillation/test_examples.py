"""Rows in tokens: what is learnt, and that there is always something to learn."""

from __future__ import annotations

import pytest

from kdstudio.distillation.batches import collate
from kdstudio.distillation.examples import SourceRow, encode_rows, last_user_text
from kdstudio.errors import BadInput
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
