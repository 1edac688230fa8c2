"""The tables of a training recipe: student, data, teacher signals, objectives, optimiser, run, export."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.catalogue.quantizations import QUANTIZATIONS
from kdstudio.registry import Params


class StudentTable(Params):
    """Where the student comes from and how it is trained."""

    source: Literal["teacher", "folder", "fresh"] = Field(
        "teacher",
        description="teacher: cut from the teacher's GGUF; folder: a local Hugging Face folder; fresh: random weights.",
        json_schema_extra={
            "teacher": "Cut from the teacher",
            "folder": "A Hugging Face folder",
            "fresh": "Fresh, random weights",
        },
    )
    path: str = Field("", description="The GGUF file or folder; empty takes the recipe's teacher.")
    layers: tuple[int, ...] = Field((), description="Layers to keep, by index; empty spreads `layer_count` evenly.")
    layer_count: int = Field(
        0,
        ge=0,
        le=512,
        description="How many layers to keep (teacher) or build (fresh); 0 keeps all.",
        json_schema_extra={"zero": "all"},
    )
    hidden_size: int = Field(
        0,
        ge=0,
        le=16384,
        description="Width of a fresh student; 0 takes the teacher's.",
        json_schema_extra={"zero": "as the teacher"},
    )
    kept_width: int = Field(
        0,
        ge=0,
        le=16384,
        description="Width pruning: how many channels of the teacher's width to keep, the busiest on the rows; 0: all.",
        json_schema_extra={"zero": "all"},
    )
    kept_feed_forward: int = Field(
        0,
        ge=0,
        le=131072,
        description="Width pruning: how many feed-forward neurons to keep in each layer; 0: all.",
        json_schema_extra={"zero": "all"},
    )
    kept_heads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Width pruning: how many attention heads to keep in each layer, in whole groups; 0: all.",
        json_schema_extra={"zero": "all"},
    )
    refit: bool = Field(
        False, description="Before training, fit each kept layer to the work of those left out after it (no gradients)."
    )
    freeze_embeddings: bool = Field(False, description="Leave embedding and head as they are: less work in each step.")
    adapter: Literal["full", "lora", "dora", "qlora"] = Field(
        "full",
        description="Train all weights, or low-rank adapters; qlora keeps the rest in 4 bits (CUDA).",
        json_schema_extra={
            "full": "All weights",
            "lora": "Low-rank adapters (LoRA)",
            "dora": "LoRA with magnitudes (DoRA)",
            "qlora": "LoRA over 4-bit weights (QLoRA)",
        },
    )
    lora_rank: int = Field(16, ge=1, le=512, description="Rank of the LoRA matrices.")
    lora_alpha: float = Field(32.0, gt=0, le=1024, description="LoRA scale; the update is multiplied by alpha / rank.")
    gradient_checkpointing: bool = Field(
        False, description="Keep fewer activations and compute them again: half the memory for a third more time."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the LoRA matrices.")


class DataTable(Params):
    """Which rows are learnt from, and which are held out to measure the gap."""

    status: Literal["accepted", "any"] = Field("accepted", description="Rows that take part.")
    held_out_tag: str = Field("", description="Prompts with this tag are held out; empty draws `held_out` at random.")
    held_out: float = Field(0.1, ge=0, le=0.5, description="Share of the prompts held out, drawn by the run's seed.")
    exclude_tags: tuple[str, ...] = Field(
        (), description="Never train on prompts with one of these tags, such as exam and general: they only measure."
    )
    limit: int = Field(
        0, ge=0, description="Use at most this many training rows; 0 uses all.", json_schema_extra={"zero": "all"}
    )
    reasoning: Literal["leave_out", "think_tags"] = Field(
        "leave_out",
        description="think_tags: reasoning is learnt too, in front of the response, between <think> tags.",
        json_schema_extra={"leave_out": "Left out", "think_tags": "In <think> tags"},
    )
    maximum_tokens: int = Field(1024, ge=8, le=131072, description="Longer conversations are left out and listed.")


class TeacherTable(Params):
    """The teacher whose signals the objectives read."""

    name: str = Field("", description="A teacher of the project; empty when only reference text is needed.")
    signals: Literal["dense", "stored"] = Field(
        "stored",
        description="stored: top-k with tail from the vault; dense: the teacher runs beside the student.",
        json_schema_extra={"stored": "Stored: top-k with tail", "dense": "Dense: the teacher beside it"},
    )
    top_k: int = Field(50, ge=1, le=1024, description="How many log-probs a token are stored.")
    tail: Literal["bucket", "shaped"] = Field(
        "bucket",
        description="What is stored of the other tokens. bucket: their mass alone; shaped: also how it is spread.",
        json_schema_extra={"bucket": "One bucket", "shaped": "Shaped, 16 bytes a token more"},
    )
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="Several teachers by name, each with its weight: the mean of their distributions is learnt.",
    )

    @model_validator(mode="after")
    def _mixture(self) -> TeacherTable:
        if not self.weights:
            return self
        if not all(0 < weight < float("inf") for weight in self.weights.values()):
            raise ValueError("each weight must be above 0")
        if self.name and self.name not in self.weights:
            raise ValueError(f"{self.name!r} has no weight; name one that has, or none")
        object.__setattr__(self, "name", self.name or next(iter(self.weights)))
        return self


class RolloutTable(Params):
    """The student's own answers to training prompts, made while it trains."""

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the steps on own answers; 0: none, or all where an objective needs them.",
        json_schema_extra={"zero": "as needed"},
    )
    source: Literal["student", "teacher_mixed", "interleaved"] = Field(
        "student",
        description="student: alone; teacher_mixed: both together (MiniLLM); interleaved: the teacher corrects it.",
        json_schema_extra={
            "student": "The student alone",
            "teacher_mixed": "Student and teacher mixed",
            "interleaved": "The teacher corrects tokens",
        },
    )
    samples: int = Field(1, ge=1, le=64, description="Answers to each prompt; rewards compare those of one prompt.")
    max_tokens: int = Field(64, ge=1, le=8192, description="An answer longer than this is cut off.")
    temperature: float = Field(1.0, gt=0, le=2, description="1 samples as the student would; smaller is safer.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens that hold this share.")
    teacher_share: float = Field(0.2, ge=0, le=1, description="teacher_mixed: the teacher's share in each token.")
    keep_top: int = Field(25, ge=1, le=1000, description="interleaved: tokens among the teacher's likeliest are kept.")
    replay: Literal["off", "adaptive"] = Field(
        "off",
        description="adaptive: own answers are kept and used again, as DistiLLM does.",
        json_schema_extra={"off": "Not kept", "adaptive": "Used again"},
    )
    capacity: int = Field(1000, ge=1, le=100_000, description="Own answers that are kept for replay.")
    steps_each: int = Field(1, ge=1, le=16, description="Optimiser steps on each round of answers (PPO's epochs).")


class RewardTable(Params):
    """What an own answer is worth."""

    kind: Literal["overlap", "teacher_log_prob", "judge", "reward_model", "length", "pattern"] = Field(
        "overlap",
        description="overlap with the accepted response; the teacher's log-prob, or its score as a judge; "
        "a trained reward model; closeness to a length; a pattern.",
        json_schema_extra={
            "overlap": "Overlap with text",
            "teacher_log_prob": "Teacher's log-prob",
            "judge": "Teacher's score",
            "reward_model": "Reward model",
            "length": "Length",
            "pattern": "Pattern",
        },
    )
    run: str = Field("", description="reward_model: the run that trained it.")
    rubric: str = Field(
        "Is this a good answer? Rate it from 1 (bad) to 5 (excellent). Say the number only.",
        description="judge: what the teacher is asked about an answer.",
    )
    target_tokens: int = Field(32, ge=1, le=8192, description="length: the length that earns most.")
    pattern: str = Field("", description="pattern: a regular expression; an answer in which it is found earns 1.")


class ObjectiveTable(Params):
    """One objective with its weight and parameters."""

    name: str
    weight: float = Field(1.0, gt=0, le=1000, description="Its share in the loss.")
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> ObjectiveTable:
        if self.name not in OBJECTIVES:  # a ValueError, so that the recipe's reader can add the line
            near = difflib.get_close_matches(self.name, OBJECTIVES.keys(), 3, 0.5)
            known = f"did you mean {' or '.join(near)}" if near else "`kdstudio objectives` lists them"
            raise ValueError(f"there is no objective called {self.name!r}; {known}")
        object.__setattr__(self, "parameters", OBJECTIVES[self.name].params(**self.parameters).model_dump())
        return self


class OptimizerTable(Params):
    """AdamW and its schedule (Loshchilov & Hutter, arXiv 1711.05101)."""

    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the rate falls after the warm-up."
    )
    warmup_steps: int = Field(5, ge=0, description="Steps in which the rate rises from 0 to its peak.")
    final_fraction: float = Field(0.1, ge=0, le=1, description="The last rate as a share of the peak.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean of gradients.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the mean of squared gradients.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled decay of matrices (not of norms and biases).")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Keep a running mean of the weights with this decay, and take it as the student."
    )
    clip_norm: float = Field(1.0, ge=0, description="Gradients are scaled down to this norm; 0 leaves them alone.")


class RunTable(Params):
    """How long, how fast and how carefully."""

    steps: int = Field(
        0, ge=0, description="Optimiser steps; 0 takes `epochs`.", json_schema_extra={"zero": "by epochs"}
    )
    epochs: float = Field(3.0, gt=0, le=1000, description="Passes over the training rows when `steps` is 0.")
    rows_per_batch: int = Field(8, ge=1, le=4096, description="Rows in one forward pass.")
    accumulation: int = Field(1, ge=1, le=1024, description="Forward passes for each optimiser step.")
    seed: int = Field(0, ge=0, lt=2**31, description="The one seed of the run; every random choice comes from it.")
    evaluate_every: int = Field(10, ge=1, description="Steps between two measurements on the held-out rows.")
    checkpoint_every: int = Field(20, ge=1, description="Steps between two checkpoints.")
    audit: Literal["stop", "report", "off"] = Field(
        "stop",
        description="What is checked before the first step; a fault stops the run, or is only reported.",
        json_schema_extra={"stop": "A fault stops the run", "report": "Faults are only reported", "off": "No checks"},
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where the student is trained.")
    processes: int = Field(
        1, ge=1, le=64, description="Processes that share each step: one for each GPU; on a CPU, one is fastest."
    )
    sharding: Literal["none", "fsdp2"] = Field(
        "none",
        description="fsdp2: each process keeps a share of the blocks' weights, gradients and moments; needs several.",
        json_schema_extra={"none": "Each has all weights", "fsdp2": "Cut over them (FSDP2)"},
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device gains from it.")

    @model_validator(mode="after")
    def _several(self) -> RunTable:
        if self.sharding != "none" and self.processes < 2:
            raise ValueError('sharding = "fsdp2" cuts the weights over several processes: set processes to 2 or more')
        return self


class ExportTable(Params):
    """What is written when the student is done."""

    quantizations: tuple[str, ...] = Field(("F16", "Q8_0"), description="GGUF formats.")
    name: str = Field("", description="The model's name in its metadata; empty takes the recipe's title.")

    @field_validator("quantizations")
    @classmethod
    def _supported(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [key for key in value if key.upper() not in QUANTIZATIONS]
        if unknown:
            raise ValueError(f"unknown quantization {unknown[0]!r}; known: {', '.join(QUANTIZATIONS.keys())}")
        return tuple(key.upper() for key in value)
