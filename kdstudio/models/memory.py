"""What a training run will take, counted before it starts: memory by part, and time.

Arithmetic over the model's shape, not a measurement: it says which part is large and whether to expect trouble. In
distillation the logits are often the largest part: tokens x vocabulary, for the student, its gradient and the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdstudio.models.shape import ModelShape, embedding_parameters, layer_parameters, parameter_count

_FLOAT = 4
_PROCESS_BYTES = 700 << 20
_ACTIVATIONS_PER_HIDDEN, _ACTIVATIONS_PER_FEED_FORWARD = 16, 4
_CPU_FLOPS_PER_THREAD = 45e9


@dataclass(frozen=True)
class RunSize:
    """How much goes through the model: batches of `rows` rows of `tokens` tokens, `response_tokens` of them learnt."""

    steps: int
    rows: int
    tokens: float
    response_tokens: float
    all_rows: int = 0


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    teacher: int
    program: int = _PROCESS_BYTES

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
            "program": self.program,
        }


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Weights of LoRA matrices on every projection of every block: rank x (in + out) each (Hu et al. 2021)."""
    hidden, wide = shape.hidden, shape.feed_forward
    query, key = shape.heads * shape.head_dimension, shape.kv_heads * shape.head_dimension
    sides = (hidden + query) * 2 + (hidden + key) * 2 + (hidden + wide) * 3
    return shape.layers * rank * sides


def estimate_memory(
    student: ModelShape, size: RunSize, *, trained: int | None = None, teacher: ModelShape | None = None
) -> MemoryEstimate:
    """Memory of training `student` in fp32 with AdamW. `trained`: weights that get gradients (all by default).

    `teacher`: a model that is held in memory beside the student (dense signals).
    """
    weights = parameter_count(student)
    learnt = weights if trained is None else trained
    tokens = size.rows * size.tokens
    per_token = student.hidden * _ACTIVATIONS_PER_HIDDEN + student.feed_forward * _ACTIVATIONS_PER_FEED_FORWARD
    attention = student.heads * size.tokens
    copies = 4 if teacher is not None else 3
    return MemoryEstimate(
        weights=weights * _FLOAT,
        gradients=learnt * _FLOAT,
        optimizer=learnt * 2 * _FLOAT,
        activations=int(tokens * student.layers * (per_token + attention) * _FLOAT),
        logits=int(size.rows * size.response_tokens * student.vocabulary * copies * _FLOAT),
        teacher=parameter_count(teacher) * _FLOAT if teacher is not None else 0,
    )


def estimate_seconds(
    student: ModelShape,
    size: RunSize,
    *,
    threads: int,
    trained_share: float = 1.0,
    teacher: ModelShape | None = None,
    flops_per_second: float = 0.0,
) -> float:
    """Time of the run on a CPU with `threads` threads, or at a measured `flops_per_second`.

    Counts 2 FLOPs a weight and token forward, and 4 more backward (2 where weights are frozen); the head only at
    response tokens; the teacher once over all rows.
    """
    backward = 2 + 2 * trained_share
    blocks = student.layers * layer_parameters(student)
    head = student.hidden * student.vocabulary
    step = size.rows * (size.tokens * blocks + size.response_tokens * head) * (2 + backward)
    once = 0.0
    if teacher is not None:
        inside = parameter_count(teacher) - embedding_parameters(teacher)
        once = 2 * size.all_rows * (size.tokens * inside + size.response_tokens * teacher.hidden * teacher.vocabulary)
    rate = flops_per_second or threads * _CPU_FLOPS_PER_THREAD
    return (size.steps * step + once) / rate
