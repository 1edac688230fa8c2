"""Two vocabularies compared by what their ids mean, and the token list of a GGUF file read without llama.cpp."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.errors import BadInput
from kdstudio.models.gguf_header import read_header
from kdstudio.models.gguf_reader import LongArray
from kdstudio.models.gguf_vocabulary import read_vocabulary
from kdstudio.models.vocabulary_map import Vocabulary, compare_vocabularies, vocabulary_of
from kdstudio.teachers.llama_vocab import LlamaTokenizer
from tests.tiny import CHATML, byte_alphabet, tiny_gguf, tiny_model

KIND = gguf.TokenType
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
Tokens = list[tuple[str, int]]


def written(path: Path, tokens: Tokens, *, model: str = "gpt2", **ids: int) -> Path:
    """A GGUF file that is nothing but a vocabulary."""
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in {
        "context_length": 64,
        "embedding_length": 8,
        "block_count": 1,
        "feed_forward_length": 8,
    }.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_token_scores([float(len(text)) for text, _ in tokens])
    for name, value in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
    writer.add_chat_template(CHATML)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sentence_pieces() -> Tokens:
    words = ["e", "l", "H", f"{SPACE}H", f"{SPACE}Hello", "lo", SPACE, "ß", "🐭"]
    return [
        ("<unk>", KIND.UNKNOWN), ("<s>", KIND.CONTROL), ("<|im_end|>", KIND.CONTROL), ("<|im_start|>", KIND.CONTROL),
        *((f"<0x{byte:02X}>", KIND.BYTE) for byte in range(256)),
        *((word, KIND.NORMAL) for word in words),
        ("<tool>", KIND.USER_DEFINED), ("[PAD270]", KIND.UNUSED),
    ]  # fmt: skip


def matched(student: Vocabulary, teacher: Vocabulary) -> list[tuple[int, ...]]:
    return [tuple(pair) for pair in compare_vocabularies(student, teacher).matched.tolist()]


def test_ids_are_matched_by_their_bytes() -> None:
    student = Vocabulary([b"a", b"b", b"ab", b"\xc3", b""])
    teacher = Vocabulary([b"", b"ab", b"\xc3", b"c", b"a", b"abc"])
    found = compare_vocabularies(student, teacher)
    assert matched(student, teacher) == [(0, 4), (2, 1), (3, 2)]
    assert (found.student_share, found.teacher_share) == (3 / 4, 3 / 5)
    assert (found.student_size, found.teacher_size, found.shared_size) == (5, 6, 5)
    assert found.relation == "different"
    assert found.first_difference == 0


def test_of_several_ids_with_the_same_bytes_the_last_are_paired_first() -> None:
    sentence = Vocabulary([b"A", b"B", b"A", b"AB"])  # the emergency byte, then the letter
    byte_level = Vocabulary([b"B", b"AB", b"A"])
    assert matched(sentence, byte_level) == [(1, 0), (2, 2), (3, 1)]
    assert matched(sentence, sentence) == [(at, at) for at in range(4)]


def test_control_tokens_are_matched_by_name_and_ends_of_turn_by_what_they_do() -> None:
    student = Vocabulary([b"", b"", b"a"], {0: "<|endoftext|>", 1: "<|im_end|>"}, end=1)
    teacher = Vocabulary([b"a", b"", b"", b""], {1: "<|endoftext|>", 2: "<|eot|>", 3: "<|im_end|>"}, end=2)
    assert matched(student, teacher) == [(0, 1), (1, 2), (2, 0)]
    assert matched(teacher, student) == [(0, 2), (1, 0), (2, 1)]
    found = compare_vocabularies(student, teacher)
    assert found.different_specials == ("<|endoftext|>", "<|im_end|>")
    assert not found.specials_agree
    assert (found.student_share, found.teacher_share) == (1, 3 / 4)
    crossed = Vocabulary([b"", b"", b"a"], {0: "<|endoftext|>", 1: "<|im_end|>"}, end=0)
    assert matched(student, crossed) == [(1, 0), (2, 2)]  # what is taken by the ends is not matched twice


def test_one_vocabulary_padded_is_told_from_a_longer_one() -> None:
    base = [b"", b"a", b"b"]
    padded = Vocabulary([*base, b"", b""], {0: "<end>"}, end=0)
    short = Vocabulary(base, {0: "<end>"}, end=0)
    for student, teacher in ((padded, short), (short, padded)):
        found = compare_vocabularies(student, teacher)
        assert found.relation == "padded"
        assert found.first_difference is None
        assert found.shared_size == 3
        assert found.student_share == found.teacher_share == 1
    assert compare_vocabularies(short, short).relation == "same"
    longer = Vocabulary([*base, b"ab"], {0: "<end>"}, end=0)
    assert compare_vocabularies(longer, short).relation == "different"
    late_end = Vocabulary([*base, b""], {3: "<|im_end|>"}, end=3)
    assert compare_vocabularies(short, late_end).relation == "different"
    renamed = Vocabulary(base, {0: "<other>"}, end=0)
    assert compare_vocabularies(short, renamed).different_specials == ("<end>",)
    assert compare_vocabularies(short, renamed).relation == "different"
    assert compare_vocabularies(Vocabulary([]), Vocabulary([b""])).relation == "different"
    assert compare_vocabularies(Vocabulary([]), Vocabulary([])).matched.shape == (0, 2)


PIECES = st.lists(st.binary(max_size=2), max_size=30)
ENDS = st.none() | st.integers(0, 29)


@given(PIECES, PIECES, ENDS, ENDS)
def test_no_id_is_matched_twice_and_all_that_can_be_is(
    ours: list[bytes], theirs: list[bytes], our_end: int | None, their_end: int | None
) -> None:
    ends = [
        end if end is not None and end < len(side) else None for end, side in ((our_end, ours), (their_end, theirs))
    ]
    student, teacher = Vocabulary(ours, {}, ends[0]), Vocabulary(theirs, {}, ends[1])
    found = compare_vocabularies(student, teacher)
    pairs = found.matched.tolist()
    for side in (0, 1):
        assert len({pair[side] for pair in pairs}) == len(pairs)
    assert pairs == sorted(pairs)
    if None in ends:
        assert all(ours[one] == theirs[other] != b"" for one, other in pairs)
        assert len(pairs) == sum(min(ours.count(piece), theirs.count(piece)) for piece in set(ours) - {b""})
    else:
        assert ends in pairs
    assert 0 <= found.student_share <= 1
    assert 0 <= found.teacher_share <= 1
    assert compare_vocabularies(student, student).relation == ("same" if ours else "different")


def test_large_vocabularies_are_compared_in_a_blink() -> None:
    draw = random.Random(0)
    sides = [Vocabulary([draw.randbytes(draw.choice([2, 3])) for _ in range(size)]) for size in (151_936, 128_256)]
    durations = []
    for _ in range(3):
        start = time.process_time()
        assert len(compare_vocabularies(*sides).matched) > 10_000
        durations.append(time.process_time() - start)
    assert min(durations) < 0.5


def agrees_with_llama(path: Path) -> Vocabulary:
    ours, theirs = read_vocabulary(read_header(path)), LlamaTokenizer(path)
    assert list(ours.pieces) == [theirs.piece(token) for token in range(theirs.vocabulary_size)]
    assert ours.end == theirs.eos_id
    found = compare_vocabularies(ours, vocabulary_of(theirs))
    theirs.close()
    assert found.relation == "same"
    return ours


def test_a_byte_level_vocabulary_is_read_as_llama_reads_it() -> None:
    vocabulary = agrees_with_llama(tiny_model(layers=2))
    assert vocabulary.special == {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>"}
    assert sorted(piece for piece in vocabulary.pieces if len(piece) == 1) == [bytes([byte]) for byte in range(256)]
    assert vocabulary.byte_level


def test_a_sentence_piece_vocabulary_is_read_as_llama_reads_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", sentence_pieces(), model="llama", bos=1, eos=2, unknown=0)
    vocabulary = agrees_with_llama(path)
    assert vocabulary.pieces[4:260] == [bytes([byte]) for byte in range(256)]
    assert vocabulary.pieces[264] == b" Hello"
    assert vocabulary.special[0] == "<unk>"
    assert vocabulary.byte_level
    # Letters are matched with letters, not with the bytes kept for emergencies.
    found = compare_vocabularies(vocabulary, read_vocabulary(read_header(tiny_model(layers=2))))
    letter = vocabulary.pieces.index(b"H", 260)
    assert letter in found.matched[:, 0]
    assert 4 + ord("H") not in found.matched[:, 0]
    assert 4 + ord("Z") in found.matched[:, 0]


def test_a_long_vocabulary_is_read_from_the_file(tmp_path: Path) -> None:
    tokens: Tokens = [(symbol, KIND.NORMAL) for symbol in byte_alphabet()]
    tokens += [(f"Ġ{number}", KIND.NORMAL) for number in range(5000)] + [("<end>", KIND.CONTROL)]
    tokens += [(f"[PAD{number}]", KIND.UNUSED) for number in range(len(tokens), len(tokens) + 31)]
    header = read_header(written(tmp_path / "long.gguf", tokens, eos=5256))
    assert isinstance(header.metadata["tokenizer.ggml.tokens"], LongArray)
    vocabulary = read_vocabulary(header)
    assert vocabulary.pieces[:256] == [bytes([byte]) for byte in range(256)]
    assert vocabulary.pieces[256 + 4321] == b" 4321"
    assert vocabulary.pieces[5256:] == [b""] * 32
    assert vocabulary.special == {5256: "<end>"}
    assert vocabulary.end == 5256
    short = read_vocabulary(read_header(written(tmp_path / "short.gguf", tokens[:5257], eos=5256)))
    assert compare_vocabularies(short, vocabulary).relation == "padded"


def test_other_kinds_of_tokenizer_are_not_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "bert.gguf", [("[CLS]", KIND.CONTROL), ("##ing", KIND.NORMAL)], model="bert")
    found = read_vocabulary(read_header(path))
    assert not found.byte_level
    assert not compare_vocabularies(found, Vocabulary([b"a"])).byte_level


def test_an_end_of_turn_is_taken_only_where_it_is_a_control_token(tmp_path: Path) -> None:
    tokens: Tokens = [("<|im_end|>", KIND.CONTROL), ("</s>", KIND.CONTROL), ("a", KIND.NORMAL)]

    def end(**ids: int) -> int | None:
        return read_vocabulary(read_header(written(tmp_path / "end.gguf", tokens, model="gpt2", **ids))).end

    assert end(eos=1) == 1
    assert end(eos=1, eot=0) == 0  # the chat template writes it
    assert end(eos=0, eot=1) == 0
    assert end(eos=2) is end(eos=9) is end() is None


@pytest.mark.parametrize("kinds", [[], [3], [3, 1, 1 << 40], ["a", "b", "c"], [-1, 0, 99], 7])
def test_strange_token_types_are_taken_for_none(kinds: Any) -> None:
    header = read_header(tiny_model(layers=2))
    header.metadata["tokenizer.ggml.tokens"] = ["a", "<0x41>", "Ġ é\u0434"]
    header.metadata["tokenizer.ggml.token_type"] = kinds
    assert read_vocabulary(header).pieces == [b"a", b"<0x41>", b" \xe9"]
    header.metadata["tokenizer.ggml.model"] = "llama"
    assert read_vocabulary(header).pieces[1] == b"<0x41>"


def test_a_byte_token_that_is_none_stands_for_nothing() -> None:
    header = read_header(tiny_model(layers=2))
    header.metadata["tokenizer.ggml.model"] = "llama"
    header.metadata["tokenizer.ggml.tokens"] = ["<0xZZ>", "<0x41>", "long byte"]
    header.metadata["tokenizer.ggml.token_type"] = [6, 6, 6]
    assert read_vocabulary(header).pieces == [b"", b"A", b"long byte"]


@pytest.mark.parametrize("damage", ["gone", "cut", "cut in the types", "other"])
def test_a_file_that_changed_since_is_refused(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path / "a.gguf", [(f"t{number}", KIND.NORMAL) for number in range(5000)], eos=0)
    header = read_header(path)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:4000])
    elif damage == "cut in the types":
        path.write_bytes(data[: header.metadata["tokenizer.ggml.token_type"].end - 4])
    else:
        at = header.metadata["tokenizer.ggml.tokens"].start
        path.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    with pytest.raises(BadInput, match="changed"):
        read_vocabulary(header)


def test_a_file_with_another_length_of_tokens_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", [(f"t{number}", KIND.NORMAL) for number in range(5000)], eos=0)
    header = read_header(path)
    data = bytearray(path.read_bytes())
    data[header.metadata["tokenizer.ggml.tokens"].end - 13] -= 1  # the last token's length, one byte too short
    path.write_bytes(data)
    with pytest.raises(BadInput, match="changed"):
        read_vocabulary(header)


def test_a_file_without_tokens_is_refused(tmp_path: Path) -> None:
    header = read_header(tiny_gguf(tmp_path / "a.gguf", layers=2))
    del header.metadata["tokenizer.ggml.tokens"]
    with pytest.raises(BadInput, match="no vocabulary"):
        read_vocabulary(header)
