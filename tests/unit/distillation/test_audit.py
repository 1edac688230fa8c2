"""The audit before the first step: real faults of distillation are found, and sound set-ups are not doubted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation import audited
from kdstudio.distillation.audit import Audited, audit, report
from kdstudio.distillation.cross_target import CrossTeacher
from kdstudio.distillation.divergence_formulas import FORMULAS
from kdstudio.distillation.divergences import SPARSE
from kdstudio.distillation.teacher_signals import SignalSource
from kdstudio.errors import KnownError
from kdstudio.jobs.events import Checked
from kdstudio.models.conversation import Tokenizer
from kdstudio.students.save import open_tokenizer
from tests.tiny import tiny_model, vocabulary
from tests.unit.distillation import audit_row_faults, audit_signal_faults
from tests.unit.distillation.audit_setting import (
    CPU,
    FAULTS,
    Reworded,
    lessons,
    network,
    pair,
    plain,
    rows_of,
    schooled_network,
    spoken,
    stored,
    student,
    tokenizer,
    unsharp,
    written,
)
from tests.unit.distillation.setting import JournalledJob, examples, journal, make_run, recipe, source_rows

SEEDED_IN = (audit_row_faults, audit_signal_faults)  # to import them is to seed them
KINDS = ("turns", "systems", "unicode", "spaces", "controls", "thoughts", "repeated", "lengths", "choices")


def doubts(made: Audited) -> list[str]:
    return [finding.title for finding in audit(made) if finding.level != "good"]


def bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def own_rows(**options: Any) -> Callable[[Path], Audited]:
    """A teacher of another make, on what it wrote itself."""

    def make(tmp: Path) -> Audited:
        path = tiny_model(**options)
        return pair(rows_of(written(path)), teacher=network(path), student=student(path, layer_count=2))

    return make


def on_lessons(kind: str, *, in_store: bool = False) -> Callable[[Path], Audited]:
    """The plain pair on other rows."""

    def make(tmp: Path) -> Audited:
        rows = rows_of(lessons()[kind], 0)
        return stored(tmp, rows) if in_store else pair(rows)

    return make


def rounded(tmp: Path) -> Audited:
    teacher = schooled_network()
    for weight in teacher.parameters():
        weight.data = weight.data.half().float()
    return pair(teacher=teacher)


def remembered(tmp: Path) -> Audited:
    made = pair()
    if made.running is not None:
        made.running.remember(list(range(len(made.rows.examples))), going_on=lambda *_: True)
        made.running.forget_body()
    return made


def another_file_of_the_tokenizer(tmp: Path) -> Audited:
    """The same template in other words, and fewer ends known: as of a folder beside a GGUF file."""
    template = tokenizer().template.replace("{% for message in messages %}", "{%- for message in messages -%}\n")
    said = {"template": template, "end_ids": frozenset({2})}
    return pair(teacher_tokenizer=cast("Tokenizer", Reworded(tokenizer(), **said)))


def across_vocabularies(tmp: Path) -> Audited:
    """Only objectives that align both texts read such a teacher; nothing is compared token by token."""
    rows, path = rows_of(examples(8)), tiny_model(merges=80)
    given = (network(path), open_tokenizer(path), tokenizer(), rows, source_rows(8), CPU, contextlib.nullcontext)
    teacher = cast("SignalSource", CrossTeacher(*given))
    return pair(rows, source=teacher, running=None, teacher_tokenizer=given[1], divergences=())


def padded_student() -> PreTrainedModel:
    """A student with outcomes that stand for no token, as families of models have them."""
    made = student()
    made.resize_token_embeddings(made.config.vocab_size + 50, mean_resizing=False)
    return made


SOUND: dict[str, Callable[[Path], Audited]] = {
    "the plain pair": lambda tmp: pair(),
    "llama": own_rows(),
    "llama, tied": own_rows(tied=True),
    "qwen2": own_rows(architecture="qwen2"),
    "qwen3": own_rows(architecture="qwen3"),
    "qwen3, Q8_0": own_rows(architecture="qwen3", dtype="Q8_0"),
    "lora": lambda tmp: pair(student=student(adapter="lora", lora_dropout=0.3)),
    "dora": lambda tmp: pair(student=student(source="fresh", adapter="dora")),
    "a padded head": lambda tmp: pair(student=padded_student()),
    "a frozen head": lambda tmp: pair(student=student(freeze_embeddings=True)),
    "a fresh student": lambda tmp: pair(student=student(source="fresh", hidden_size=32)),
    "a student in training mode": lambda tmp: pair(student=student(adapter="lora", lora_dropout=0.3).train()),
    "5 stored": lambda tmp: stored(tmp, top_k=5),
    "50 stored": stored,
    "50 stored, unsharp": unsharp,
    "all stored": lambda tmp: stored(tmp, top_k=len(vocabulary(160))),
    "all stored, unsharp": lambda tmp: unsharp(tmp, top_k=len(vocabulary(160))),
    "stored in bf16": lambda tmp: stored(tmp, precision=bf16),
    "bf16": lambda tmp: pair(precision=bf16),
    "bf16, unsharp": lambda tmp: unsharp(precision=bf16),
    "weights rounded to fp16": rounded,
    "remembered and freed": remembered,
    "the same tokenizer": lambda tmp: pair(teacher_tokenizer=open_tokenizer(tiny_model())),
    "another file of the tokenizer": another_file_of_the_tokenizer,
    "a teacher of another vocabulary": across_vocabularies,
    "no teacher": lambda tmp: pair(source=None, running=None),
    "no shared prefix": lambda tmp: pair(rows_of(plain(), share_prefix=False)),
    "one row": lambda tmp: pair(rows_of(plain()[:1], 0)),
    "one row, stored": lambda tmp: stored(tmp, rows_of(plain()[:1], 0)),
    "nothing held out": lambda tmp: pair(rows_of(plain(), 0)),
    "the student's own answers": lambda tmp: unsharp(),
    **{f"rows with {kind}": on_lessons(kind) for kind in KINDS},
    **{f"stored, rows with {kind}": on_lessons(kind, in_store=True) for kind in KINDS},
    "rows of all kinds": lambda tmp: pair(rows_of([row for kind in KINDS for row in lessons()[kind]], 0)),
    "every divergence": lambda tmp: pair(divergences=[(name, {}) for name in SPARSE]),
    "every divergence, softened": lambda tmp: pair(divergences=[(name, {"temperature": 3.0}) for name in SPARSE]),
    "every divergence, stored": lambda tmp: stored(tmp, divergences=[(name, {}) for name in SPARSE]),
}


TEMPLATES = {
    "no opening": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[{{ m.role }}] {{ m.content }} [end]{% endif %}{% endfor %}",
    "trimmed answers": "{% for m in messages %}<|im_start|>{{ m.role }}<|im_start|>\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_start|>\n\n{% endif %}",
    "empty thoughts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' and "
    "'</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "opened thoughts": "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content.split('</think>')[-1] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:<think>\n{% endif %}",
    "plain letters": "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}{{ eos_token }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}",
}


EQUAL: dict[str, Callable[[Path], Audited]] = {
    "dense": lambda tmp: pair(student=schooled_network()),
    "dense, bf16": lambda tmp: pair(student=schooled_network(), precision=bf16),
    "stored": lambda tmp: stored(tmp, student=schooled_network()),
    "all stored": lambda tmp: unsharp(tmp, student=network(), top_k=len(vocabulary(160))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level, title, make = FAULTS[name]
    found = [(finding.level, finding.title) for finding in audit(make(tmp_path, monkeypatch))]
    assert (level, title) in found
    assert [other for other in found if other[0] == "fault"] == [(level, title)] * (level == "fault")


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_set_up_is_not_doubted(name: str, tmp_path: Path) -> None:
    assert doubts(SOUND[name](tmp_path)) == []


def test_the_mask_is_shown_as_what_is_read_and_what_is_learnt() -> None:
    shown = next(finding.passages for finding in audit(pair()) if finding.passages)
    assert [kind for _, kind in shown] == ["read", "learnt"]
    read, learnt = (text for text, _ in shown)
    assert read.rstrip().endswith("assistant")
    assert "<|im_end|>" in learnt
    assert "<|im_start|>" not in learnt


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_in_any_template_are_not_doubted(name: str) -> None:
    template = TEMPLATES[name]
    for kind in KINDS:
        rows = rows_of(lessons(template)[kind], 0)
        assert doubts(replace(pair(rows, source=None, running=None), tokenizer=spoken(template))) == [], kind


@pytest.mark.parametrize("name", EQUAL)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name: str, tmp_path: Path) -> None:
    assert doubts(EQUAL[name](tmp_path)) == ["There is nothing to learn"]


@pytest.mark.parametrize("name", [name for name in SPARSE if name != "adaptive_kl"])
@pytest.mark.parametrize("make", [pair, stored], ids=["dense", "stored"])
def test_any_wrong_slope_is_found(
    name: str, make: Callable[..., Audited], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formula = FORMULAS[name]

    def steeper(*given: Any, **parameters: float) -> tuple[Tensor, Tensor]:
        value, slope = formula(*given, **parameters)
        return value, 1.1 * slope

    made = make(*([tmp_path] if make is stored else []), divergences=[(name, {})])
    monkeypatch.setitem(FORMULAS, name, steeper)
    assert doubts(made) == ["A gradient is not the slope of its loss"]


@pytest.mark.parametrize("name", SPARSE)
def test_any_floor_under_a_divergence_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    formula = FORMULAS[name]

    def higher(*given: Any, **parameters: float) -> tuple[Tensor, Tensor]:
        value, slope = formula(*given, **parameters)
        return value + 0.01, slope

    monkeypatch.setitem(FORMULAS, name, higher)
    assert "The student differs from itself" in doubts(pair(divergences=[(name, {})]))


def test_eight_rows_are_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made, read = pair(rows_of([row for kind in KINDS for row in lessons()[kind]], 0)), [0]
    tokens = made.batch().input_ids.numel()
    for network_of in (made.network, made.running.members[0].network() if made.running is not None else made.network):
        decoder = network_of.get_submodule("model")
        decoder.register_forward_hook(lambda _, __, output: read.append(output.last_hidden_state[..., 0].numel()))
    assert doubts(made) == []
    assert len(made.batch().rows) == 8
    assert sum(read) <= 3 * tokens  # the rows once by each, and the shortest by itself


def test_rows_that_would_take_long_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair(rows_of(lessons()["lengths"], 0))
    assert len(made.batch().rows) == 4
    monkeypatch.setattr(audited, "_BATCH_TOKENS", 150)
    assert made.rows.tokens(made.batch().rows) <= 150
    monkeypatch.setattr(audited, "_BATCH_TOKENS", 1)
    assert len(made.batch().rows) == 1
    assert doubts(made) == []


def test_the_student_goes_on_as_it_was() -> None:
    made = pair(student=student(adapter="lora", lora_dropout=0.3).train())
    before = [item.clone() for item in made.network.parameters()]
    assert doubts(made) == []
    assert all(module.training for module in made.network.modules())
    assert all(torch.equal(item, was) for item, was in zip(made.network.parameters(), before, strict=True))
    assert all(item.grad is None for item in made.network.parameters())


def reported(folder: Path, made: Audited, *, stop: bool) -> None:
    def check(job: JournalledJob) -> dict[str, Any]:
        report(job, made, stop=stop)
        return {}

    JournalledJob(folder).run(check)


def test_a_fault_stops_a_run_that_asks_for_it_and_a_warning_does_not(tmp_path: Path) -> None:
    folder, fault = make_run(tmp_path, "run", recipe()), "Special tokens do not agree"
    faulty = pair(teacher_tokenizer=cast("Tokenizer", Reworded(tokenizer(), eos_id=0, end_ids=frozenset({0}))))
    with pytest.raises(KnownError, match=fault) as raised:
        reported(folder, faulty, stop=True)
    assert "nothing was trained" in raised.value.detail
    reported(folder, faulty, stop=False)
    reported(folder, EQUAL["dense"](tmp_path), stop=True)
    said = [line.event for line in journal(folder) if isinstance(line.event, Checked)]
    doubted = [(event.level, event.title) for event in said if event.level != "good"]
    assert doubted == [("fault", fault), ("fault", fault), ("warning", "There is nothing to learn")]
    assert said[1].detail == "Rows end with token 2; the teacher ends a turn with 0."
