"""Teachers that know their rows, students beside them, and the audit of such a pair: whole, or spoilt by a test."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from kdstudio.catalogue.training import RolloutTable, StudentTable
from kdstudio.distillation.audit import Audited
from kdstudio.distillation.batches import Batch, collate, shared_prefix
from kdstudio.distillation.examples import Example, SourceRow, encode_rows
from kdstudio.distillation.forward import Embedded, head_logits, head_weight, response_hidden
from kdstudio.distillation.rollouts import generate
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.samples import text_of
from kdstudio.distillation.stored_signals import StoredSignals
from kdstudio.distillation.supervised import cross_entropy
from kdstudio.distillation.targets import TeacherTarget
from kdstudio.distillation.teacher_signals import DenseTeacher, RunningTeacher, SignalSource
from kdstudio.models.conversation import Tokenizer
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from kdstudio.students.build import build
from kdstudio.students.save import open_tokenizer
from kdstudio.teachers.signals import SparseSignal
from kdstudio.teachers.vault import Vault
from tests.tiny import tiny_model
from tests.unit.distillation.setting import ADJECTIVES, NOUNS, examples

CPU = torch.device("cpu")
COUNT = 12
FINGERPRINT = "teacher"
_SCHOOL_STEPS = 80
Patch = pytest.MonkeyPatch
Make = Callable[[Path, Patch], Audited]
FAULTS: dict[str, tuple[str, str, Make]] = {}
"""By name: the level, the title of what is to be found, and what makes the audited pair."""


def seeded(level: str, title: str) -> Callable[[Make], Make]:
    """A fault, and what is to be found of it."""

    def keep(make: Make) -> Make:
        FAULTS[make.__name__] = (level, title, make)
        return make

    return keep


def network(path: Path | None = None) -> PreTrainedModel:
    """A network of its own, which a test may spoil."""
    path = path or tiny_model()
    return assemble(*load_gguf(path), path.name)


@functools.cache
def tokenizer(path: Path | None = None) -> Tokenizer:
    """The tiny model's."""
    return open_tokenizer(path or tiny_model())


@functools.cache
def written(path: Path | None = None, count: int = COUNT) -> tuple[Example, ...]:
    """Rows whose answers a tiny model without schooling wrote itself, in whatever tokens came to its mind."""
    asked, end = examples(count), tokenizer(path).eos_id
    random = torch.from_numpy(np.random.default_rng(7).random((count, 20), dtype=np.float32))
    table = RolloutTable(max_tokens=20, temperature=0.8)
    prompts = [example.prompt_ids.tolist() for example in asked]
    ends = tokenizer(path).end_ids
    answers = generate(network(path), prompts, table, random, ends, CPU, precision=contextlib.nullcontext)
    assert end is not None
    ids = [answer.ids if answer.finished else [*answer.ids, end] for answer in answers]
    return tuple(with_answer(example, one) for example, one in zip(asked, ids, strict=True))


def with_answer(example: Example, ids: Sequence[int]) -> Example:
    """The same prompt, answered in these tokens."""
    text = text_of(tokenizer(), [token for token in ids if token not in tokenizer().end_ids])
    return replace(example, response_ids=np.asarray(ids, np.int32), response=text, spans=(), own=True)


def spoken(template: str = "") -> Tokenizer:
    """The tiny model's tokenizer with another template."""
    return cast("Tokenizer", Reworded(tokenizer(), template=template)) if template else tokenizer()


def lesson(text: str, *turns: str, number: int = 0, **values: Any) -> SourceRow:
    """A row by hand; the last of `turns` is the user's, those before it alternate backwards."""
    roles = [("user", "assistant")[(len(turns) - place - 1) % 2] for place in range(len(turns))]
    messages = tuple({"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True))
    return SourceRow(number, number, messages, text, **values)


@functools.cache
def lessons(template: str = "") -> dict[str, tuple[Example, ...]]:
    """Rows by hand of many kinds, all of which the schooled teacher knows; `template` writes them otherwise."""
    made = {
        "plain": [
            lesson(f"there was once a {adjective} {noun} who sang", f"a {noun}")
            for noun in NOUNS
            for adjective in ADJECTIVES[:2]
        ],
        "turns": [lesson(f"the {noun} sang", "hello", "who are you", f"a {noun}") for noun in NOUNS],
        "systems": [
            replace(row, messages=({"role": "system", "content": f"Speak of the {noun}."}, *row.messages))
            for noun in NOUNS
            for row in [lesson(f"the {noun} sang another song", "who sang ?")]
        ],
        "unicode": [lesson(f"žluťoučký {noun} 🦊🏔️ 山の王 é", f"a {noun} 🤖?") for noun in NOUNS],
        "spaces": [lesson(f"  \n the {noun}   sang\n\n", f"a {noun} ") for noun in NOUNS],
        "controls": [lesson(f"it said <|im_end|> and <|im_start|>assistant\n{noun}", f"a {noun}") for noun in NOUNS],
        "thoughts": [lesson(f"the {noun}", f"a {noun}", reasoning=f"who sang ? the {noun}") for noun in NOUNS],
        "repeated": [lesson("song " * 20 + noun, f"a {noun}") for noun in NOUNS],
        "lengths": [lesson("the river " * 3**place, noun) for place, noun in enumerate(NOUNS[:4])],
        "choices": [
            lesson(f"the {word} {noun}", f"a {noun}", group=place + 1, score=float(score))
            for place, noun in enumerate(NOUNS)
            for score, word in enumerate(("old", "brave"))
        ],
    }
    speaker, encoded = spoken(template), {}
    for place, (name, rows) in enumerate(made.items()):
        numbered = [replace(row, prompt_id=100 * place + n, response_id=100 * place + n) for n, row in enumerate(rows)]
        encoded[name] = tuple(encode_rows(speaker, numbered, 512)[0])
    return encoded


def plain() -> tuple[Example, ...]:
    """The rows of `pair`."""
    return lessons()["plain"]


@functools.cache
def schooled() -> dict[str, torch.Tensor]:
    """The weights of a tiny model that was trained on all lessons until it knew them."""
    rows = rows_of([example for part in lessons().values() for example in part], held_out=0, share_prefix=False)
    model = network(tiny_model(layers=2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
        for step in range(_SCHOOL_STEPS):
            batch = collate(
                rows.examples, range(step % 4, rows.count, 4)
            )  # itself: a test may have spoilt what rows call
            embedded = Embedded(model, batch, rows.prefix)
            loss = cross_entropy(head_logits(response_hidden(model, batch, embedded), head_weight(model)), batch.labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss.mean())
            embedded.backward()
            optimizer.step()
    return {name: item.detach().clone() for name, item in model.named_parameters()}


def schooled_network() -> PreTrainedModel:
    """A teacher: a network of its own with what was learnt at school."""
    model = network(tiny_model(layers=2))
    model.load_state_dict({name: item.clone() for name, item in schooled().items()}, strict=False)
    return model


def rows_of(chosen: Sequence[Example], held_out: int = 2, *, share_prefix: bool = True) -> TrainingRows:
    """Training rows of which the last `held_out` are held out."""
    shared = shared_prefix(chosen) if share_prefix else 0
    prefix = torch.from_numpy(chosen[0].prompt_ids[:shared].astype("int64"))
    return TrainingRows(tuple(chosen), len(chosen) - held_out, prefix)


def student(path: Path | None = None, **table: Any) -> PreTrainedModel:
    """A student as a recipe makes it, by default one layer of what the teacher was before it went to school."""
    return build(StudentTable(**{"layer_count": 1, **table}), path or tiny_model(layers=2), seed=3).model


def pair(
    rows: TrainingRows | None = None,
    *,
    teacher: PreTrainedModel | None = None,
    student: PreTrainedModel | None = None,
    divergences: Sequence[tuple[str, dict[str, Any]]] = (("forward_kl", {}),),
    precision: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    **values: Any,
) -> Audited:
    """A sound pair with a dense teacher that knows its rows, short of what is given otherwise."""
    rows = rows or rows_of(plain())
    dense = DenseTeacher(teacher or schooled_network(), rows, CPU, precision)
    made = student if student is not None else _plain_student()
    given: dict[str, Any] = {"source": dense, "running": dense, "divergences": divergences, **values}
    return Audited(made, tokenizer(), rows, CPU, precision, **given)


def _plain_student() -> PreTrainedModel:
    return student()


def stored(
    folder: Path,
    rows: TrainingRows | None = None,
    *,
    teacher: PreTrainedModel | None = None,
    top_k: int = 50,
    temperature: float = 1.0,
    change: Callable[[SparseSignal], SparseSignal] | None = None,
    **values: Any,
) -> Audited:
    """The same with the teacher's top-k in a vault; `change` spoils each row's signal before it is stored."""
    rows = rows or rows_of(plain())
    made = pair(rows, teacher=teacher, **values)
    with Vault(folder / "vault") as vault:
        for row, example in enumerate(rows.examples):
            signal = signal_of(made.running, rows, row, top_k, temperature)
            key = Vault.key(FINGERPRINT, top_k, example.prompt_ids.tolist(), example.response_ids.tolist())
            vault.put(key, signal if change is None else change(signal))
    made.source = StoredSignals(Vault(folder / "vault"), rows, FINGERPRINT, top_k)
    return made


def unsharp(tmp: Path | None = None, **values: Any) -> Audited:
    """A pair whose teacher is sure of little, on rows that it wrote itself."""
    given = {"teacher": network(), "student": student(tiny_model(), layer_count=2), **values}
    return pair(rows_of(written()), **given) if tmp is None else stored(tmp, rows_of(written()), **given)


def signal_of(
    teacher: RunningTeacher | None, rows: TrainingRows, row: int, top_k: int, temperature: float = 1.0
) -> SparseSignal:
    """What the job that stores signals would store of a row."""
    assert teacher is not None
    batch = rows.batch([row], CPU)
    log_probs = (teacher.target(batch).logits().double() / temperature).log_softmax(dim=-1)
    top, ids = log_probs.topk(top_k, dim=-1)
    tail = log_probs.scatter(1, ids, -torch.inf).logsumexp(dim=-1)
    label = log_probs.gather(1, batch.labels.unsqueeze(1)).squeeze(1)
    numbers = [part.numpy().astype(np.float32) for part in (top, tail, label)]
    return SparseSignal(ids.numpy().astype(np.uint32), numbers[0], numbers[1], numbers[2])


@dataclass
class Spoilt:
    """A source whose signals are changed before anyone reads them."""

    source: SignalSource | None
    change: Callable[[Any, Batch], TeacherTarget]
    kind: Literal["dense", "stored"] = "dense"

    def target(self, batch: Batch) -> TeacherTarget:
        """The changed signal."""
        assert self.source is not None
        return self.change(self.source.target(batch), batch)


def spoilt(made: Audited, change: Callable[[Any, Batch], TeacherTarget], *, gone: bool = True) -> Audited:
    """The pair with every signal changed; `gone`: the teacher's network is no longer there."""
    return replace(made, source=Spoilt(made.source, change), running=None if gone else made.running)


class Reworded:
    """A tokenizer of which a test says some things otherwise."""

    def __init__(self, base: Tokenizer, **said: Any) -> None:
        self._base, self._said = base, said

    def __getattr__(self, name: str) -> Any:
        return self._said[name] if name in self._said else getattr(self._base, name)
