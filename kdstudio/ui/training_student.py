"""Which student a recipe would make, and why it could not be made, learn or be exported: read from headers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdstudio.errors import BadInput
from kdstudio.models.architectures import ARCHITECTURES, student_obstacle
from kdstudio.models.gguf_header import GGUFHeader, read_header
from kdstudio.models.pair import compare
from kdstudio.models.shape import ModelShape, shape_of_folder, shape_of_header

if TYPE_CHECKING:
    from kdstudio.catalogue.training import StudentTable
    from kdstudio.models.spec import TeacherSpec
    from kdstudio.recipe import TrainingRecipe

_WIDTH_STEP = 32
_GONE = "The file of {name} is gone: the run can read the signals that are stored, and nothing else of it."
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Pair:
    """Shapes of student and teacher (None: not a local one), and warnings about the two in words."""

    student: ModelShape
    teacher: ModelShape | None
    notes: tuple[str, ...] = ()


def read_pair(recipe: TrainingRecipe, spec: TeacherSpec | None, *, needs_signals: bool) -> Pair:
    """Read both models' headers.

    Raises `BadInput` for whatever would end the run before its first step: a file that is gone, a student that could
    never be exported, vocabularies that do not match although an objective compares token by token.
    """
    gone: tuple[str, ...] = ()
    if spec is not None and recipe.student.source == "folder" and _is_gone(spec):  # nothing else of it is needed
        gone, spec = (_GONE.format(name=spec.name),), None
    header = _teacher_header(spec)
    teacher = shape_of_header(header) if header is not None else _teacher_folder(spec)
    table = recipe.student
    if table.source == "folder":
        if not table.path:
            raise BadInput("No folder is chosen", "The student comes from a folder.", "Choose one with its weights.")
        folder = Path(table.path).expanduser()
        student = _folder_shape(folder)
        notes = _folder_match(folder, student, header) if needs_signals and header is not None else ()
        kept = len(table.layers) or table.layer_count or student.layers
        return Pair(_pruned(student.with_layers(kept), table), teacher, (*notes, *gone))
    base = read_header(Path(table.path).expanduser()) if table.path else header
    if base is None:
        if teacher is not None:  # a teacher in a Hugging Face folder
            return Pair(_sized(teacher, recipe), teacher)
        raise BadInput(
            "No model to start from",
            "A student is cut from a local teacher's file.",
            "Choose a local teacher, or a folder with a student.",
        )
    _refuse(base)
    if header is not None and base is not header and needs_signals:
        _require_same(header, base)
    return Pair(_sized(shape_of_header(base), recipe), teacher)


def _is_gone(spec: TeacherSpec) -> bool:
    return spec.kind in ("gguf", "huggingface") and not Path(spec.path).expanduser().exists()


def _teacher_header(spec: TeacherSpec | None) -> GGUFHeader | None:
    return read_header(Path(spec.path)) if spec is not None and spec.kind == "gguf" else None


def _teacher_folder(spec: TeacherSpec | None) -> ModelShape | None:
    return shape_of_folder(Path(spec.path)) if spec is not None and spec.kind == "huggingface" else None


def _refuse(header: GGUFHeader) -> None:
    obstacle = student_obstacle(header)
    if obstacle:
        raise BadInput(
            "This model cannot be a student",
            obstacle,
            "It may still teach: let the student come from a folder, or choose a Llama- or Qwen-shaped model.",
        )


def _require_same(teacher: GGUFHeader, student: GGUFHeader) -> None:
    for finding in compare(teacher, student).findings:
        if finding.level == "obstacle":
            raise BadInput(finding.title, finding.detail, "Choose a student of the same family, or imitate instead.")


def _folder_shape(folder: Path) -> ModelShape:
    shape = shape_of_folder(folder)
    if shape.architecture not in ARCHITECTURES:
        raise BadInput(
            "This model cannot be a student",
            f"Its architecture is {shape.architecture!r}; students can be made from {', '.join(ARCHITECTURES)}.",
            "Choose a Llama- or Qwen-shaped one.",
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise BadInput(
            "The folder has no weights",
            f"{folder} holds no model.safetensors.",
            "Choose a folder with safetensors weights; pickles are refused.",
        )
    return shape


def _folder_match(folder: Path, student: ModelShape, teacher: GGUFHeader) -> tuple[str, ...]:
    """Warnings about a folder's vocabulary; the rows themselves are compared when the run starts."""
    vocabulary = folder / "tokenizer.gguf"
    if vocabulary.is_file():
        _require_same(teacher, replace(read_header(vocabulary), tensors=teacher.tensors))
        return ()
    if not (folder / "tokenizer.json").is_file():
        raise BadInput("The folder has no tokenizer", f"{folder} holds no tokenizer.json.", "Get the model again.")
    try:
        entries = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
        size = max(len(entries), student.vocabulary)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput("The tokenizer cannot be read", f"{folder}: {error}", "Get the model again.") from error
    if size == teacher.vocabulary_size:
        return ()
    sizes = f"{teacher.vocabulary_size:,} tokens and {size:,}"
    return (f"The vocabularies seem to differ: {sizes}. Matching needs the same one; imitating does not.",)


def _pruned(base: ModelShape, table: StudentTable) -> ModelShape:
    """The base with the channels, neurons and heads that are kept; the run itself refuses what does not divide."""
    if table.source == "fresh":
        return base
    heads = min(table.kept_heads or base.heads, base.heads)
    return replace(
        base,
        hidden=min(table.kept_width or base.hidden, base.hidden),
        feed_forward=min(table.kept_feed_forward or base.feed_forward, base.feed_forward),
        heads=heads,
        kv_heads=max(1, base.kv_heads * heads // base.heads),
    )


def _sized(base: ModelShape, recipe: TrainingRecipe) -> ModelShape:
    """The base cut to the recipe's layers, or rebuilt at its width with heads of the same size."""
    table = recipe.student
    if table.source != "fresh" or not table.hidden_size:
        return _pruned(base.with_layers(len(table.layers) or table.layer_count or base.layers), table)
    heads = table.hidden_size // max(1, base.head_dimension)
    if table.hidden_size % base.head_dimension or table.hidden_size % _WIDTH_STEP or not heads:
        step = max(base.head_dimension, _WIDTH_STEP)
        raise BadInput(
            "This width cannot be built",
            f"A width of {table.hidden_size} does not divide into heads of {base.head_dimension} dimensions.",
            f"Choose a multiple of {step}.",
        )
    groups = max(1, base.heads // max(1, base.kv_heads))
    return replace(
        base,
        layers=table.layer_count or base.layers,
        hidden=table.hidden_size,
        feed_forward=max(1, round(base.feed_forward * table.hidden_size / base.hidden / _WIDTH_STEP)) * _WIDTH_STEP,
        heads=heads,
        kv_heads=heads // groups if heads % groups == 0 else heads,
    )
