"""Similarity of what happens inside: hidden states, attention, values."""

from __future__ import annotations

from pydantic import Field

from kdstudio.catalogue.objectives.base import Objective, Signal
from kdstudio.registry import Params

LAYERS = r"^\s*(-?\d+\s*(,\s*-?\d+\s*)*)?$"


class LayerMapParams(Params):
    """Which layers are compared."""

    student_layers: str = Field(
        "",
        pattern=LAYERS,
        description="Student layers, from 1, such as 4, 8, -1. Empty: four, spread evenly, the last among them.",
    )
    teacher_layers: str = Field(
        "", pattern=LAYERS, description="The teacher's layers for them. Empty: those at the same relative depth."
    )


class RelationParams(Params):
    """Parameters of MiniLM's relations."""

    relation_heads: int = Field(
        0,
        ge=0,
        le=256,
        description="Heads of the relations, as in MiniLM 2; 0 takes the models' own, which must agree.",
        json_schema_extra={"zero": "the models' own"},
    )


class DiscrepancyParams(LayerMapParams):
    """Parameters of the maximum mean discrepancy."""


_MINILM = "https://arxiv.org/abs/2002.10957"


def _similarity(
    key: str, label: str, when: str, reference: str, params: type[Params], needs: Signal, methods: tuple[str, ...]
) -> Objective:
    return Objective(key, label, when, reference, params, "similarity", (needs,), methods)


SIMILARITY_OBJECTIVES = (
    _similarity(
        "hidden_mse",
        "Hidden states, squared distance",
        "Beside a divergence, for a student of other width or depth: what the teacher computes on the way.",
        "https://arxiv.org/abs/1909.10351",
        LayerMapParams,
        Signal.HIDDEN_STATES,
        ("TinyBERT's hidden loss", "DistilBERT"),
    ),
    _similarity(
        "hidden_cosine",
        "Hidden states, direction",
        "As the squared distance, but blind to length: gentler for a student cut from another model.",
        "https://arxiv.org/abs/1910.01108",
        LayerMapParams,
        Signal.HIDDEN_STATES,
        ("DistilBERT's cosine loss",),
    ),
    _similarity(
        "maximum_mean_discrepancy",
        "Hidden states, as a whole",
        "The distribution of states alike, not each one: where tokens need not correspond.",
        "https://arxiv.org/abs/1707.01219",
        DiscrepancyParams,
        Signal.HIDDEN_STATES,
        ("NST", "MMD"),
    ),
    _similarity(
        "attention_relation",
        "Attention, last layer",
        "Where the teacher looks; student and teacher may have other widths.",
        _MINILM,
        RelationParams,
        Signal.ATTENTION,
        ("MiniLM", "MiniLMv2"),
    ),
    _similarity(
        "value_relation",
        "Value relation, last layer",
        "What tokens mean to each other in the teacher; goes with the attention.",
        _MINILM,
        RelationParams,
        Signal.ATTENTION,
        ("MiniLM", "MiniLMv2"),
    ),
    _similarity(
        "task_aware_layerwise",
        "Task-aware layers (TED)",
        "Hidden states through learnt filters, which keep what the task needs and let the rest differ.",
        "https://arxiv.org/abs/2210.01351",
        LayerMapParams,
        Signal.HIDDEN_STATES,
        ("TED",),
    ),
)
