"""A teacher with another tokenizer: the same bytes on both sides, and what can and cannot be learnt from it."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.batches import shared_prefix
from kdstudio.distillation.bound import cross_level
from kdstudio.distillation.bound.base import Setting
from kdstudio.distillation.cross_target import CrossTarget, CrossTeacher
from kdstudio.distillation.examples import encode_rows
from kdstudio.distillation.head_terms import Room
from kdstudio.distillation.passes import Pass, run_parts
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.targets import DenseTarget
from kdstudio.distillation.teacher_signals import DenseTeacher
from kdstudio.errors import BadInput, BugError
from kdstudio.models.conversation import Tokenizer
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from kdstudio.students.save import open_tokenizer
from tests.tiny import tiny_model
from tests.unit.distillation.family_setting import StoppedJob, shipped, warnings
from tests.unit.distillation.setting import curve, make_project, make_run, source_rows, teacher

CPU = torch.device("cpu")
CHOSEN = (4, 0, 7)
COUNTS: Any = {"token": 30, "row": 3, "unit": 3}
OWN, COARSE, FINE = 100, 300, 40
"""Merges of the student's tokenizer, and of teachers' that need fewer and more tokens for a text."""


@functools.cache
def network(merges: int = OWN, context: int = 512) -> PreTrainedModel:
    path = tiny_model(layers=3, merges=merges, context=context)
    return assemble(*load_gguf(path), path.name)


@functools.cache
def tokenizer(merges: int = OWN) -> Tokenizer:
    return open_tokenizer(tiny_model(layers=3, merges=merges))


EXAMPLES = encode_rows(tokenizer(), source_rows(10), 512)[0]
ROWS = TrainingRows(
    tuple(EXAMPLES), 6, torch.from_numpy(EXAMPLES[0].prompt_ids[: shared_prefix(EXAMPLES)].astype("int64"))
)
IM_START = 1  # a control token that neither tokenizer names


def cross(merges: int, context: int = 512) -> CrossTeacher:
    theirs, ours = tokenizer(merges), tokenizer()
    found = network(merges, context)
    return CrossTeacher(found, theirs, ours, ROWS, source_rows(10), CPU, contextlib.nullcontext)


def target(merges: int) -> CrossTarget:
    return cross(merges).target(ROWS.batch(CHOSEN, CPU))


def text(spoken: Tokenizer, ids: Tensor) -> bytes:
    return b"".join(spoken.piece(token) for token in ids.tolist())


@pytest.mark.parametrize("merges", [COARSE, FINE, OWN])
def test_a_group_is_the_same_bytes_on_both_sides(merges: int) -> None:
    found, batch = target(merges), ROWS.batch(CHOSEN, CPU)
    assert len(found.student) == len(found.teacher) > len(CHOSEN)
    groups = list(zip(found.student.tolist(), found.teacher.tolist(), strict=True))
    for (first, last), (begin, end) in groups:
        ours, theirs = batch.labels[first : last + 1], found.labels[begin : end + 1]
        assert text(tokenizer(), ours) == text(tokenizer(merges), theirs)
        assert len(set(batch.owner[first : last + 1].tolist())) == 1
    assert sum(last - first + 1 for (first, last), _ in groups) == len(batch.labels)  # here all of the text is aligned
    assert sum(end - begin + 1 for _, (begin, end) in groups) == len(found.labels)
    assert (len(found.labels) < len(batch.labels), len(found.labels) > len(batch.labels)) == (
        merges == COARSE,
        merges == FINE,
    )
    assert cross(merges).aligned_share() == 1


@pytest.mark.parametrize("merges", [COARSE, FINE])
def test_states_are_those_of_the_teachers_own_tokens(merges: int) -> None:
    found, spoken, at = target(merges), tokenizer(merges), 0
    for row in CHOSEN:
        source = source_rows(10)[row]
        prompt = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in source.messages)
        read = spoken.encode(f"{prompt}<|im_start|>assistant\n", special=True)
        answer = [*spoken.encode(source.text, special=False), spoken.eos_id or 0]
        with torch.no_grad():
            logits = network(merges)(torch.tensor([read + answer])).logits[0, len(read) - 1 : -1]
        part = slice(at, at + len(answer))
        assert found.labels[part].tolist() == answer
        torch.testing.assert_close(found.hidden[part] @ found.head.t(), logits, atol=1e-3, rtol=1e-4)
        at += len(answer)
    assert at == len(found.labels)


@pytest.mark.parametrize("merges", [COARSE, FINE])
def test_places_are_those_of_the_same_row_and_end_with_the_shorter_text(merges: int) -> None:
    found, batch = target(merges), ROWS.batch(CHOSEN, CPU)
    lengths = [len(tokenizer(merges).encode(source_rows(10)[row].text, special=False)) + 1 for row in CHOSEN]
    starts = np.cumsum([0, *lengths])
    seen: list[int] = []
    for owner in range(len(CHOSEN)):
        own = int((batch.owner == owner).sum())
        seen += [int(starts[owner]) + place if place < lengths[owner] else -1 for place in range(own)]
    assert found.places.tolist() == seen
    assert (-1 in seen) is (merges == COARSE)
    logits = found.logits_at(slice(0, len(seen)), Room())
    torch.testing.assert_close(logits[0], found.hidden[0] @ found.head.t())
    assert logits.shape == (len(seen), tokenizer(merges).vocabulary_size)


def test_matched_ids_mean_the_same() -> None:
    found, ours, theirs = target(FINE), tokenizer(), tokenizer(FINE)
    pairs: list[tuple[int, int]] = [(student, other) for student, other in found.matched.tolist()]
    assert {other for _, other in pairs} == set(range(theirs.vocabulary_size)) - {
        IM_START
    }  # fewer merges: all are known
    assert all(ours.piece(student) == theirs.piece(other) for student, other in pairs)


# ------------------------------------------------------------------------------------------------------- objectives
def learnt(name: str, view: Pass, **parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of an objective, and its gradients to states and head."""
    given = {"universal_logit": {"temperature": 1.0}, "byte_aligned": {"beta": 0.5}}[name] | parameters
    parts = cross_level.BINDERS[name](given, Setting()).read(view)
    (value,) = run_parts(view, [(part, 1.0) for part in parts], COUNTS, backward=True)
    assert view.hidden.grad is not None
    assert view.head.grad is not None
    return value, view.hidden.grad, view.head.grad


def a_pass(found: CrossTarget | DenseTarget) -> Pass:
    batch, size = ROWS.batch(CHOSEN, CPU), tokenizer().vocabulary_size
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(count, 8, generator=generator).requires_grad_() for count in (len(batch.labels), size))
    return Pass(batch, hidden, head, found)


@pytest.mark.parametrize("name", cross_level.BINDERS)
def test_with_one_tokenizer_on_both_sides_it_is_the_direct_loss(name: str) -> None:
    direct = DenseTeacher(network(), ROWS, CPU, contextlib.nullcontext).target(ROWS.batch(CHOSEN, CPU))
    theirs = target(OWN)
    ids = torch.arange(tokenizer().vocabulary_size)
    assert theirs.matched.tolist() == [[token, token] for token in ids.tolist() if token != IM_START]
    theirs = replace(theirs, matched=torch.stack([ids, ids], dim=1))
    expected, found = learnt(name, a_pass(direct)), learnt(name, a_pass(theirs))
    assert expected[0] > 0
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("merges", [COARSE, FINE])
def test_groups_in_pieces_are_the_groups_at_once(merges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learnt("byte_aligned", a_pass(target(merges)))
    monkeypatch.setattr(cross_level, "_LOGITS", 5 * tokenizer().vocabulary_size)
    for ours, theirs in zip(learnt("byte_aligned", a_pass(target(merges))), whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_what_one_text_has_left_over_is_not_compared() -> None:
    found = target(COARSE)
    _, gradient, _ = learnt("universal_logit", a_pass(found))
    assert (gradient.abs().sum(dim=1) > 0).tolist() == (found.places >= 0).tolist()


def test_an_objective_of_one_vocabulary_is_never_handed_two() -> None:
    view = a_pass(target(FINE))
    with pytest.raises(BugError, match="does not speak"):
        _ = view.teacher_log_probs


def test_a_row_that_the_teacher_cannot_read_is_refused() -> None:
    with pytest.raises(BadInput, match="does not fit the teacher"):
        cross(FINE, context=96)


# -------------------------------------------------------------------------------------------------------- whole runs
@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDSTUDIO_THREADS", "1")
    return make_project(tmp_path)


def run(project: Path, name: str, recipe: str, *, stop_at: int = 10**9, **tables: Any) -> dict[str, Any]:
    student = {"path": str(tiny_model(layers=2, merges=OWN))}
    made = shipped(recipe, student=student, **tables)
    if not (project / "runs" / name).exists():
        make_run(project, name, made, teacher(tiny_model(layers=3, merges=FINE)))
    return StoppedJob(project / "runs" / name, stop_at).run()


@pytest.mark.parametrize("recipe", ["universal_logit", "byte_aligned"])
def test_a_student_learns_across_vocabularies_and_goes_on_bit_for_bit(project: Path, recipe: str) -> None:
    tables: dict[str, Any] = {"run": {"steps": 6}, "optimizer": {"learning_rate": 3e-3}}
    result = run(project, "whole", recipe, **tables)
    losses = [float.fromhex(value) for value in curve(project / "runs" / "whole").values()]
    assert losses[-1] < 0.95 * losses[0]
    assert result["held_out_against"] == ""
    assert set(result["final"]) == {"loss", "held_out_nll"}
    said = [warned for warned in warnings(project, "whole") if "different vocabularies" in warned.title]
    assert "100% of the text" in said[0].detail
    for stop_at in (3, 99):
        run(project, "stopped", recipe, stop_at=stop_at, **tables)
    assert curve(project / "runs" / "stopped") == curve(project / "runs" / "whole")


@pytest.mark.parametrize(
    ("recipe", "tables"),
    [
        ("match", {}),
        ("match", {"teacher": {"signals": "dense"}}),
        ("hidden_states", {}),
        ("gkd", {}),
        ("byte_aligned", {"rollout": {"share": 0.5}}),
        ("byte_aligned", {"objective": [{"name": "byte_aligned"}, {"name": "reverse_kl"}]}),
        ("weighted_tokens", {}),
        ("speculative", {}),
    ],
)
def test_what_needs_one_vocabulary_is_refused_in_words(project: Path, recipe: str, tables: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="different vocabularies") as caught:
        run(project, "refused", recipe, **tables)
    assert "tokens" in caught.value.detail
    assert "supervised" in caught.value.hint
