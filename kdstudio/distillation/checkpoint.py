"""Checkpoints: a folder that is complete or not there, with everything that a bit-identical resume needs.

Weights, optimiser state and random states as safetensors, the rest as JSON with the sha256 of each file. Nothing is
pickled. Written beside its place, flushed, then renamed; two are kept, and the newest whose hashes match is loaded.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from kdstudio import files
from kdstudio.distillation.randomness import random_state, restore_random_state
from kdstudio.distillation.shards import cut_like, gathered
from kdstudio.students.tensor_file import write_tensors

FORMAT = 2
KEPT = 2
MANIFEST_NAME, WEIGHTS_NAME, OPTIMIZER_NAME, RANDOM_NAME, EXTRA_NAME = (
    "manifest.json",
    "weights.safetensors",
    "optimizer.safetensors",
    "random.safetensors",
    "learning.safetensors",
)
TENSOR_FILES = (WEIGHTS_NAME, OPTIMIZER_NAME, RANDOM_NAME, EXTRA_NAME)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. `step` steps were done; `progress` and `versions` are what the trainer said at saving."""

    folder: Path
    step: int
    progress: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)
    learning: dict[str, Any] = field(default_factory=dict)


def checkpoint_bytes(parameters: Mapping[str, Tensor]) -> int:
    """About what one checkpoint takes on the disk: weights and AdamW's two moments."""
    return 3 * sum(tensor.numel() * tensor.element_size() for tensor in parameters.values()) + (1 << 20)


def save_checkpoint(
    root: Path,
    step: int,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    recipe: str,
    progress: dict[str, Any],
    versions: dict[str, str],
    learning: dict[str, Any] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    writes: bool = True,
) -> Checkpoint:
    """Save the state after `step` steps below `root`, then remove all but the newest two.

    `parameters`: the trainable ones by name, in the optimiser's order; `recipe`: the hash of what is being trained;
    `learning` and `extra`: what objectives must find again, as numbers and as tensors. Tensors that are cut over
    several processes are put together: all of them call this, one of them `writes`, and nobody can tell from what it
    wrote how many there were.
    Raises `KnownError` with the bytes that are missing when the disk is full; the earlier checkpoints stay.
    """
    needed = checkpoint_bytes(parameters)
    if writes:
        files.require_space(root, needed, "A checkpoint")
    numbers, states = random_state()
    folder = root / f"step-{step:06d}"
    found = (parameters, _optimizer_tensors(parameters, optimizer), extra or {})
    weights, moments, others = (gathered(tensors, kept=writes) for tensors in found)
    saved = Checkpoint(folder, step, progress, versions, numbers, learning or {})
    if not writes:
        return saved
    with files.atomic_folder(folder, needed=needed) as temporary:
        write_tensors(weights, temporary / WEIGHTS_NAME)
        write_tensors(moments, temporary / OPTIMIZER_NAME)
        write_tensors(states, temporary / RANDOM_NAME)
        write_tensors(others, temporary / EXTRA_NAME)
        manifest = {
            "format": FORMAT,
            "step": step,
            "recipe": recipe,
            "progress": progress,
            "versions": versions,
            "random": numbers,
            "learning": learning or {},
            "sha256": {name: _sha256(temporary / name) for name in TENSOR_FILES},
        }
        (temporary / MANIFEST_NAME).write_text(json.dumps(manifest), "utf-8")
    for old in _folders(root)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return saved


def newest_checkpoint(root: Path, recipe: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of this `recipe` whose files are what was written, and why newer ones were passed over."""
    files.remove_temporaries(root)
    faults: list[str] = []
    for folder in _folders(root):
        fault, manifest = _verified(folder, recipe)
        if fault:
            faults.append(f"{folder.name}: {fault}")
            continue
        kept = (manifest[name] for name in ("progress", "versions", "random", "learning"))
        return Checkpoint(folder, int(manifest["step"]), *kept), faults
    return None, faults


def restore_checkpoint(
    checkpoint: Checkpoint, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Put weights, optimiser and random states back, in place; returns the `extra` tensors."""
    stored = load_file(checkpoint.folder / WEIGHTS_NAME)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(cut_like(stored[name], parameter))
    _restore_optimizer(load_file(checkpoint.folder / OPTIMIZER_NAME), parameters, optimizer)
    restore_random_state(checkpoint.random, load_file(checkpoint.folder / RANDOM_NAME))
    return dict(load_file(checkpoint.folder / EXTRA_NAME))


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [folder for folder in root.glob("step-*") if folder.name[5:].isdigit()] if root.is_dir() else []
    return sorted(found, key=lambda folder: int(folder.name[5:]), reverse=True)


def _verified(folder: Path, recipe: str) -> tuple[str, dict[str, Any]]:
    """What is wrong with a checkpoint ("" if nothing), and its manifest."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
        if manifest["format"] != FORMAT:
            return f"it has format {manifest['format']}", {}
        if manifest["recipe"] != recipe:
            return "it belongs to another recipe", {}
        for name, expected in manifest["sha256"].items():
            if _sha256(folder / name) != expected:
                return f"{name} is damaged", {}
        complete = {"step", "progress", "versions", "random", "learning"} <= set(manifest)
        return ("", manifest) if complete else ("its manifest is incomplete", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({type(error).__name__})", {}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _optimizer_tensors(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}:{name}"] = torch.as_tensor(value)
    return tensors


def _restore_optimizer(
    stored: Mapping[str, Tensor], parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    for full, value in stored.items():
        key, _, name = full.partition(":")
        parameter = parameters[name]
        moment = cut_like(value, parameter) if value.dim() else value.to(parameter.device)
        optimizer.state[parameter][key] = moment  # the fused AdamW keeps its step count there too
