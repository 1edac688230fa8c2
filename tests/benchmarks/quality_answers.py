"""What a student writes by itself to held-out prompts, and how far that is from what its teacher would have written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from kdstudio.catalogue.training import RolloutTable
from kdstudio.distillation.batches import shared_prefix
from kdstudio.distillation.examples import Example
from kdstudio.distillation.held_out import measure
from kdstudio.distillation.randomness import stream
from kdstudio.distillation.rollouts import Answer, generate
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.samples import text_of
from kdstudio.distillation.teacher_signals import DenseTeacher
from kdstudio.models.conversation import encode_prompt
from kdstudio.networks.network import assemble
from kdstudio.students.build import load_source
from kdstudio.students.save import open_student
from tests.benchmarks.quality_teacher import ANSWER_TOKENS, Chat

SAMPLES = 8
_CPU = torch.device("cpu")
_SEED = 77  # the same numbers decide every student's tokens


@dataclass(frozen=True)
class FreeRunning:
    """Of each of R prompts, the mean over its sampled answers.

    `reverse_kl` [R] KL(student || teacher) in nats an answer: the divergences at each token of an answer, added up,
    which is an unbiased estimate of that between whole answers. `right` [R] the share of answers that are the right
    one, NaN where there are many. `per_token` the divergence in nats a token, `surprise` the teacher's
    negative log-likelihood of these answers, `finished` the share that ended by themselves.
    """

    reverse_kl: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    per_token: float
    surprise: float
    finished: float


def open_teacher(path: Path) -> PreTrainedModel:
    """The teacher's network in float32."""
    config, state = load_source(path)
    return assemble(config, state, path.name)


def free_running(student: Path, teacher: PreTrainedModel, chats: Sequence[Chat]) -> FreeRunning:
    """Let a saved student answer each prompt `SAMPLES` times at temperature 1, and have its teacher read along.

    The product's own held-out measure is asked with the roles exchanged: its forward KL from the student is the reverse
    KL of the student.
    """
    network, tokenizer, _ = open_student(student)
    prompts = [encode_prompt(tokenizer, list(chat.messages)) for chat in chats for _ in range(SAMPLES)]
    table = RolloutTable(max_tokens=ANSWER_TOKENS)
    random = torch.from_numpy(stream(_SEED, "answers").random((len(prompts), ANSWER_TOKENS), dtype=np.float32))
    answers = generate(network, prompts, table, random, tokenizer.end_ids, _CPU, precision=nullcontext)
    rows = _as_held_out(prompts, answers)
    found = measure(teacher, rows, DenseTeacher(network, rows, _CPU, nullcontext), _CPU, nullcontext)
    tokens = np.asarray(found.rows["tokens"], np.float64)
    divergence = np.asarray(found.rows["forward_kl"], np.float64) * tokens
    texts = [text_of(tokenizer, [token for token in item.ids if token not in tokenizer.end_ids]) for item in answers]
    right = [_right(chats[place // SAMPLES], text) for place, text in enumerate(texts)]
    return FreeRunning(
        divergence.reshape(-1, SAMPLES).mean(axis=1),
        np.asarray(right).reshape(-1, SAMPLES).mean(axis=1),
        float(divergence.sum() / tokens.sum()),
        found.nll,
        float(np.mean([item.finished for item in answers])),
    )


def _right(chat: Chat, text: str) -> float:
    return float("nan") if chat.task == "tell" else float(text == chat.answer)


def _as_held_out(prompts: Sequence[Sequence[int]], answers: Sequence[Answer]) -> TrainingRows:
    examples = tuple(
        Example(number, number, np.asarray(prompt, np.int32), np.asarray(answer.ids, np.int32), "", "")
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    )
    shared = shared_prefix(examples)
    return TrainingRows(examples, 0, torch.from_numpy(examples[0].prompt_ids[:shared].astype("int64")))
