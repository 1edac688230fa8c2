"""What a training run will take, counted before it starts: memory by part, and time. It warns and never blocks.

The figures follow the program's own trainer: weights, gradients and AdamW's two moments in 32 bits, the activations
that autograd keeps of one batch, and the logits of one piece of it at a time.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from kdstudio.models.shape import ModelShape, layer_parameters, parameter_count

_FLOAT = 4
_PIECE_LOGITS = 1 << 25  # how many the trainer holds at once: a long batch's head is worked on in pieces
_PROGRAM_BYTES = 450 << 20  # an interpreter with torch and transformers
_MARGIN = 0.1
_EFFICIENCY = 0.55  # of a large matrix product's speed that a whole training step reaches
_BF16_GAIN = 1.6
_BYTES_PER_SECOND = 8e9  # of memory, for what an optimiser step reads and writes
_OPTIMIZER_TRAFFIC = 28  # bytes a trained weight: weight, gradient and two moments read, three of them written
_SPEED_SIZE = 640


@dataclass(frozen=True)
class RunSize:
    """How much goes through the model: batches of `rows` rows of `tokens` tokens, `response_tokens` of them learnt.

    Tokens are means; `longest` (0: as the mean) decides the memory. `all_rows`: training and held-out rows together.
    `measurements` of the `held_out` rows are made. `bf16`: matrix products in 16 bits.
    """

    steps: int
    rows: int
    tokens: float
    response_tokens: float
    all_rows: int = 0
    longest: int = 0
    held_out: int = 0
    measurements: int = 0
    bf16: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part. `margin`: the program itself, and a tenth for what was not counted."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    teacher: int
    margin: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Name -> bytes, as a person reads them."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser": self.optimizer,
            "activations": self.activations,
            "logits": self.logits,
            "teacher": self.teacher,
            "program and margin": self.margin,
        }


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Weights of LoRA matrices on every projection of every block: rank x (in + out) each (Hu et al. 2021)."""
    hidden, wide = shape.hidden, shape.feed_forward
    query, key = shape.heads * shape.head_dimension, shape.kv_heads * shape.head_dimension
    sides = (hidden + query) * 2 + (hidden + key) * 2 + (hidden + wide) * 3
    return shape.layers * rank * sides


def estimate_memory(
    student: ModelShape,
    size: RunSize,
    *,
    trained: int | None = None,
    teacher: ModelShape | None = None,
    further: Sequence[ModelShape] = (),
) -> MemoryEstimate:
    """Memory of training `student` with AdamW. `trained`: weights that get gradients (all by default; else adapters).

    `teacher`: a model that is held in memory beside the student (dense signals), with its last hidden states; `further`
    ones are mixed with it.
    """
    weights = parameter_count(student)
    learnt = weights if trained is None else trained
    held = weights if learnt >= weights else weights + learnt
    batch = size.rows * (size.longest or math.ceil(size.tokens))
    activations = batch * (student.layers * activation_bytes(student, bf16=size.bf16) + 4 * _FLOAT * student.hidden)
    if size.bf16:
        activations += 2 * weights  # autocast keeps the matrices' 16-bit copies until the backward pass is done
    piece = max(_PIECE_LOGITS // student.vocabulary, 1)
    learnt_tokens = min(math.ceil(size.rows * size.response_tokens), piece)
    held_beside = [] if teacher is None else [teacher, *further]
    copies = 3 + 2 * len(held_beside)  # logits, log-probs, gradient; each teacher's logits and log-probs
    read = math.ceil(size.all_rows * size.response_tokens)
    beside = sum(parameter_count(one) + read * one.hidden for one in held_beside)
    parts = {
        "weights": held * _FLOAT,
        "gradients": learnt * _FLOAT,
        "optimizer": learnt * 2 * _FLOAT,
        "activations": activations,
        "logits": learnt_tokens * student.vocabulary * copies * _FLOAT,
        "teacher": beside * _FLOAT,
    }
    return MemoryEstimate(**parts, margin=_PROGRAM_BYTES + int(_MARGIN * sum(parts.values())))


def activation_bytes(shape: ModelShape, *, bf16: bool = False) -> int:
    """What one token leaves in one block for the backward pass: the inputs of its matrices, norms and products."""
    queries, keys = shape.heads * shape.head_dimension, shape.kv_heads * shape.head_dimension
    products = 3 * queries + 4 * keys + 4 * shape.feed_forward + shape.hidden
    return 6 * shape.hidden * _FLOAT + products * (2 if bf16 else _FLOAT)  # the residual stream stays in 32 bits


def estimate_seconds(
    student: ModelShape,
    size: RunSize,
    *,
    threads: int,
    trained_share: float = 1.0,
    teacher: ModelShape | None = None,
    further: Sequence[ModelShape] = (),
    flops_per_second: float = 0.0,
) -> float:
    """Time of the run on a CPU with `threads` threads, or at `flops_per_second` (0 measures this machine's processor).

    Counts 2 FLOPs a weight and token forward, and 4 more backward (2 where weights are frozen), the head only at
    response tokens, the teacher's body once over all rows and its head at every step, and the measurements.
    """
    speed = (flops_per_second or processor_speed(threads)) * _EFFICIENCY * (_BF16_GAIN if size.bf16 else 1.0)
    step = size.rows * (_body(student, size) + _head(student, size)) * (4 + 2 * trained_share) / 2
    once, measured = 0.0, size.held_out * (_body(student, size) + _head(student, size))
    for one in [] if teacher is None else [teacher, *further]:
        step += size.rows * _head(one, size)
        once += size.all_rows * _body(one, size)
        measured += size.held_out * _head(one, size)
    traffic = size.steps * parameter_count(student) * trained_share * _OPTIMIZER_TRAFFIC / _BYTES_PER_SECOND
    return (size.steps * step + once + size.measurements * measured) / speed + traffic


def _body(shape: ModelShape, size: RunSize) -> float:
    """FLOPs of the blocks over one row, forward."""
    attention = 2 * shape.layers * shape.heads * shape.head_dimension * size.tokens  # causal: half of all pairs
    return size.tokens * (2 * shape.layers * layer_parameters(shape) + attention)


def _head(shape: ModelShape, size: RunSize) -> float:
    """FLOPs of the output head over one row, forward."""
    return 2 * size.response_tokens * shape.vocabulary * shape.hidden


def processor_speed(threads: int) -> float:
    """FLOPs a second of large 32-bit matrix products on so many threads."""
    return _machine_speed() * min(1.0, threads / (psutil.cpu_count(logical=False) or 1))


@functools.cache
def _machine_speed() -> float:
    """On all cores, measured once in some 50 ms."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((_SPEED_SIZE, _SPEED_SIZE), dtype=np.float32) for _ in range(2))
    best = math.inf
    for _ in range(6):
        began = time.perf_counter()
        _ = left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * _SPEED_SIZE**3 / max(best, 1e-9)
