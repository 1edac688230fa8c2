"""Shapes from both kinds of model, what can be a student, and the pair report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from kdstudio.errors import BadInput
from kdstudio.models.architectures import student_obstacle
from kdstudio.models.byte_spans import Alignment, aligned_groups
from kdstudio.models.gguf_header import read_header
from kdstudio.models.gguf_vocabulary import read_vocabulary
from kdstudio.models.pair import compare, legal_ways
from kdstudio.models.shape import parameter_count, shape_of_config, shape_of_folder, shape_of_header
from kdstudio.models.terms import TERMS, terms_of
from kdstudio.models.vocabulary_map import Vocabulary, VocabularyMap, compare_vocabularies
from tests.tiny import tiny_gguf, tiny_model

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 414, "max_position_embeddings": 512,
}  # fmt: skip


def test_a_header_and_a_config_give_one_shape(tmp_path: Path) -> None:
    assert shape_of_config(CONFIG) == shape_of_header(read_header(tiny_model()))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert shape_of_folder(tmp_path) == shape_of_config(CONFIG)
    assert parameter_count(shape_of_config(CONFIG), layers=2) == parameter_count(shape_of_config(CONFIG).with_layers(2))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"model_type": "llama"}', "[" * 100_000])
def test_a_folder_that_is_no_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput):
        shape_of_folder(tmp_path)


@pytest.mark.parametrize("value", [None, "64", -1, 0, 1.5, True, 1 << 70, {}])
def test_sizes_that_are_no_sizes(value: object) -> None:
    with pytest.raises(BadInput, match="hidden"):
        shape_of_config({**CONFIG, "hidden_size": value})


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json"):
        shape_of_folder(tmp_path / "none")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_students_can_be_made_of_llamas_and_qwens(architecture: str) -> None:
    assert student_obstacle(read_header(tiny_model(architecture=architecture))) == ""


def other_model(path: Path, architecture: str, **values: int) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, value in values.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_what_cannot_be_a_student_is_said_before_training(tmp_path: Path) -> None:
    assert "'gemma3'" in student_obstacle(read_header(other_model(tmp_path / "a.gguf", "gemma3")))
    assert "mixture" in student_obstacle(read_header(other_model(tmp_path / "b.gguf", "llama", expert_count=8)))
    assert "no weights" in student_obstacle(read_header(other_model(tmp_path / "c.gguf", "llama")))


def test_a_pair_of_one_vocabulary() -> None:
    report = compare(read_header(tiny_model()), read_header(tiny_model(layers=2)))
    assert report.same_tokens
    assert report.can_train
    assert {finding.level for finding in report.findings} == {"good"}
    assert "Apache 2.0" in report.findings[-1].title


def test_a_pair_of_two_vocabularies() -> None:
    report = compare(read_header(tiny_model()), read_header(tiny_model(merges=50)))
    assert not report.same_tokens
    assert report.can_train
    assert any(finding.level == "obstacle" and "vocabulary" in finding.title for finding in report.findings)


def test_other_templates_sizes_and_students_are_noted(tmp_path: Path) -> None:
    small = read_header(tiny_model(layers=2, context=128))
    bare = read_header(tiny_gguf(tmp_path / "bare.gguf", template=None))
    titles = [finding.title for finding in compare(small, bare).findings]
    assert "The student has no chat template" in titles
    assert "The student is larger than its teacher" in titles
    assert any("shorter" in finding.title for finding in compare(bare, small).findings)
    assert any(finding.title == "Their chat templates differ" for finding in compare(bare, small).findings)
    vocabulary = read_header(other_model(tmp_path / "v.gguf", "gemma3"))
    assert not compare(small, vocabulary).can_train


LETTERS = [bytes([byte]) for byte in range(256)]


def mapped(student: list[bytes], teacher: list[bytes], *, byte_level: bool = True) -> VocabularyMap:
    return compare_vocabularies(Vocabulary(student), Vocabulary(teacher, byte_level=byte_level))


def verdicts(vocabularies: VocabularyMap | None, **options: bool) -> list[bool | None]:
    return [way.legal for way in legal_ways(vocabularies=vocabularies, **{"same_tokens": False, **options})]


def test_which_objectives_are_legal() -> None:
    same, padded = mapped(LETTERS, LETTERS), mapped(LETTERS, [*LETTERS, b"", b""])
    partly = mapped([*LETTERS, b"the"], [b"the", *LETTERS])
    foreign = mapped(LETTERS, [bytes([byte, byte]) for byte in range(256)])
    assert [way.way for way in legal_ways(same_tokens=True)] == ["direct", "sorted", "byte_aligned", "text"]
    assert verdicts(None, same_tokens=True) == verdicts(same) == verdicts(padded) == [True] * 4
    assert verdicts(partly) == [False, True, True, True]
    assert verdicts(foreign) == [False, True, False, True]
    assert verdicts(mapped(LETTERS, [b"the", *LETTERS], byte_level=False)) == [False, True, False, True]
    assert verdicts(None) == [None, True, None, True]  # until the token lists are read
    assert verdicts(same, same_tokens=True, white_box=False) == [False, False, False, True]


def test_why_they_are_legal_or_not() -> None:
    def why(found: VocabularyMap) -> str:
        return legal_ways(same_tokens=False, vocabularies=found)[0].why

    assert "the teacher's 2 ids from 256 on stand for nothing and are left out" in why(
        mapped(LETTERS, [*LETTERS, b"", b""])
    )
    assert "the student's 1 ids" in why(mapped([*LETTERS, b""], LETTERS))
    assert "from id 0 on" in why(mapped(LETTERS, [b"the", *LETTERS]))
    assert "further tokens" in why(mapped(LETTERS, [*LETTERS, b"the"]))
    named = [Vocabulary([*LETTERS, b""], {256: name}) for name in ("<|im_end|>", "</s>")]
    assert "control tokens differently: <|im_end|>" in why(compare_vocabularies(*named))
    few = mapped(LETTERS, [bytes([byte, byte]) for byte in range(255)] + [b"a"])
    assert "Only 0% of the student's tokens" in legal_ways(same_tokens=False, vocabularies=few)[2].why
    assert "text, not its probabilities" in legal_ways(same_tokens=True, white_box=False)[1].why


def test_a_report_on_two_vocabularies_that_were_read() -> None:
    teacher, student = read_header(tiny_model()), read_header(tiny_model(merges=50))
    unread = compare(teacher, student)
    assert (unread.same_tokens, unread.one_to_one) == (False, None)
    assert unread.legality("direct").legal is None
    assert unread.legality("sorted").legal is True
    found = compare_vocabularies(read_vocabulary(student), read_vocabulary(teacher))
    report = compare(teacher, student, vocabularies=found)
    assert not report.same_tokens
    assert report.legality("direct").legal is False
    assert report.legality("byte_aligned").legal is True
    assert "100% of the student's tokens" in report.legality("byte_aligned").why
    obstacle = next(finding for finding in report.findings if finding.level == "obstacle")
    assert "byte by byte, not token by token" in obstacle.detail
    foreign = compare(teacher, student, vocabularies=mapped(LETTERS, [b"the"]))
    assert any("sorted by size, not token by token" in finding.detail for finding in foreign.findings)


def test_a_padded_vocabulary_is_a_note() -> None:
    teacher, student = read_header(tiny_model()), read_header(tiny_model(merges=50))
    report = compare(teacher, student, vocabularies=mapped(LETTERS, [*LETTERS, b"", b""]))
    assert report.same_tokens
    assert report.legality("direct").legal is True
    (note,) = [finding for finding in report.findings if "padded" in finding.title]
    assert note.level == "note"
    assert note.detail == "The teacher's 2 ids from 256 on stand for nothing and are left out."
    assert not any(finding.level == "obstacle" for finding in report.findings)


def test_what_was_not_looked_at_is_unknown() -> None:
    report = compare(read_header(tiny_model()), read_header(tiny_model(layers=2)))
    assert all(way.legal for way in report.ways)
    bare = type(report)(True, True, ())
    assert bare.legality("direct").legal is None


@pytest.mark.parametrize(
    ("student", "teacher", "alike", "level", "words"),
    [
        ([(0, 4), (4, 10)], [(0, 4), (4, 10)], 1.0, "good", "One sample text; 0% is compared in groups"),
        ([(0, 4), (4, 10)], [(0, 4), (4, 7), (7, 10)], 0.4, "note", "60% is compared in groups of several tokens, 0%"),
        ([(0, 4)], [(0, 4), (4, 10)], 0.4, "note", "0% is compared in groups of several tokens, 60% not at all"),
    ],
)
def test_sample_texts_say_how_much_is_cut_alike(
    student: list[tuple[int, int]], teacher: list[tuple[int, int]], alike: float, level: str, words: str
) -> None:
    model = read_header(tiny_model())
    report = compare(model, model, alignments=[aligned_groups(student, teacher)])
    assert report.one_to_one == alike
    (finding,) = [finding for finding in report.findings if "is cut into the same tokens" in finding.title]
    assert finding.level == level
    assert f"{alike:.0%}" in finding.title
    assert words in finding.detail


def test_samples_count_by_their_bytes() -> None:
    model, spans = read_header(tiny_model()), [(0, 30)]
    alignments: list[Alignment] = [aligned_groups(spans, spans), aligned_groups([(0, 10)], [(0, 5), (5, 10)])]
    report = compare(model, model, alignments=alignments)
    assert report.one_to_one == 30 / 40
    assert any("2 sample texts; 25%" in finding.detail for finding in report.findings)
    assert compare(model, model, alignments=[aligned_groups([], [])]).one_to_one == 1


def test_the_report_needs_no_torch() -> None:
    code = "import sys, kdstudio.models.pair, kdstudio.models.gguf_vocabulary; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_terms() -> None:
    assert terms_of("Apache-2.0").free
    assert not terms_of("llama3").free
    assert terms_of("").name == "not stated"
    assert "Read the model's terms" in terms_of("other").says
    assert all(terms.says for terms in TERMS.values())
