"""A student as a recipe describes it: cut from a teacher, taken from a folder, or fresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from kdstudio.catalogue.training import StudentTable
from kdstudio.errors import BadInput, BugError
from kdstudio.export.check import exportable
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.gguf_header import fingerprint, read_header
from kdstudio.models.model_folder import weight_files
from kdstudio.networks.folder import folder_config, load_folder
from kdstudio.networks.gguf_weights import gguf_config, load_gguf
from kdstudio.networks.network import Config, State, assemble
from kdstudio.students.adapters import add_adapters, merge_adapters
from kdstudio.students.fresh import fresh_config, fresh_network
from kdstudio.students.narrow import Kept, busiest, narrow, wanted_width
from kdstudio.students.prune import choose_layers, keep_layers
from kdstudio.students.save import open_tokenizer, save_student

Rows = Sequence[Sequence[int]]


@dataclass
class Student:
    """A network to train with the tokenizer it speaks; `description` says where it comes from, for its folder."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    config: Config
    source: Path
    description: dict[str, Any] = field(default_factory=dict)
    wrapped: PeftModel | None = None

    def finished(self) -> PreTrainedModel:
        """The plain network, LoRA merged in. After this, the student cannot be trained further."""
        if self.wrapped is not None:
            self.model, self.wrapped = merge_adapters(self.wrapped), None
        return self.model

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write the student's folder."""
        save_student(folder, self.finished(), self.config, self.source, {**self.description, **provenance})


def build(table: StudentTable, teacher: Path | None, *, seed: int) -> Student:
    """Make the student of a recipe; `teacher`: the recipe's teacher where it is a local file or folder.

    Every random choice comes from `seed`. Where the recipe prunes its width, `narrowed` must follow. Raises `BadInput`
    when it cannot be made or could never be exported.
    """
    source = _source(table, teacher)
    if source.is_dir() and table.source != "fresh":
        weight_files(source)  # pickled ones are refused before anything else of the folder is judged
    _refuse_unexportable(source)
    if table.refit and (table.source != "teacher" or source != teacher):
        raise BadInput(
            "There is nothing to refit",
            "Refitting compares the kept layers with the teacher that they were cut from.",
            'Set student.source = "teacher" without a path, or student.refit = false.',
        )
    if table.refit and list(table.layers) != sorted(table.layers):
        raise BadInput(
            "These layers cannot be refitted",
            "Each is fitted to what the teacher does before the next one, so they must be named in rising order.",
            "Sort student.layers, or set student.refit = false.",
        )
    if table.source == "fresh":
        config = fresh_config(source_config(source), table.layer_count, table.hidden_size)
        model, kept = fresh_network(config, seed), tuple[int, ...]()
    else:
        config, state, kept = _kept(source, table)
        model = assemble(config, state, source.name)
    student = Student(model, open_tokenizer(source, config["vocab_size"]), config, source)
    student.description = {
        "source": table.source,
        "base": source.name,
        "base_fingerprint": fingerprint(source) if source.is_file() else "",
        "layers": list(kept),
        "adapter": table.adapter,
    }
    if wanted_width(table, config) is None:
        _finish(student, table, seed)
    return student


def narrowed(student: Student, table: StudentTable, chosen: Kept | None, rows: Rows, seed: int) -> tuple[Student, Kept]:
    """A student that `build` made, cut to the recipe's width by what its source computes on a few token `rows`.

    `chosen`: what an earlier attempt of the run kept, so that one that goes on keeps the same. Raises `BadInput` as
    `wanted_width` does.
    """
    width, layers = wanted_width(table, student.config), student.description["layers"]
    if width is None:
        raise BugError("a student of its source's width was to be narrowed")
    if chosen is None:
        whole = student.model
        if layers != list(range(source_config(student.source)["num_hidden_layers"])):
            whole = assemble(*load_source(student.source), student.source.name)
        chosen = busiest(whole, layers, rows, width)
    config, state = narrow(student.config, dict(student.model.named_parameters()), chosen, width)
    model = assemble(config, state, student.source.name)
    made = replace(student, model=model, config=config, description={**student.description, "width": asdict(width)})
    _finish(made, table, seed)
    return made, chosen


def _finish(student: Student, table: StudentTable, seed: int) -> None:
    """Decide what of the network is trained, when its size is final."""
    model = student.model
    student.description["parameters"] = sum(item.numel() for item in model.parameters())
    if table.freeze_embeddings:
        for name in ("model.embed_tokens", "lm_head"):
            model.get_submodule(name).requires_grad_(False)
    if table.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    if table.adapter != "full":
        rank, alpha, dropout = table.lora_rank, table.lora_alpha, table.lora_dropout
        student.wrapped = add_adapters(model, kind=table.adapter, rank=rank, alpha=alpha, dropout=dropout, seed=seed)


def _source(table: StudentTable, teacher: Path | None) -> Path:
    if table.path:
        source = Path(table.path).expanduser()
    elif teacher is not None and table.source != "folder":
        source = teacher
    else:
        raise BadInput(
            "The student has no source",
            "The recipe names no model file or folder, and its teacher is not a local one.",
            "Set student.path to a GGUF file or to a Hugging Face folder.",
        )
    if table.source == "folder" and not source.is_dir():
        raise BadInput("There is no such folder", str(source), "Set student.path to a folder that holds config.json.")
    return source


def source_config(source: Path) -> Config:
    """The config of a GGUF file or folder, all layers."""
    if source.is_dir():
        return folder_config(source)
    header = read_header(source)
    return gguf_config(header, range(header.layers))


def load_source(source: Path, layers: Sequence[int] | None = None) -> tuple[Config, State]:
    """Config and weights of a GGUF file or folder, cut to `layers` if given."""
    if not source.is_dir():
        return load_gguf(source, layers=layers)
    config, state = load_folder(source)
    return (config, state) if layers is None else keep_layers(config, state, layers)


def _kept(source: Path, table: StudentTable) -> tuple[Config, State, tuple[int, ...]]:
    total = source_config(source)["num_hidden_layers"]
    kept = choose_layers(total, table.layers, table.layer_count)
    return *load_source(source, kept), kept


def _refuse_unexportable(source: Path) -> None:
    """Say before training, not after, that no GGUF file could be made of the student."""
    obstacle = exportable(source)
    if obstacle:
        raise BadInput(
            "This model cannot become a student", f"{source.name}: {obstacle}", "Choose a Llama- or Qwen-shaped one."
        )
