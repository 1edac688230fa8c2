"""Verbs that only tell: doctor, recipes, objectives, coverage."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib import metadata, resources
from typing import Any

import psutil
import typer

from kdstudio import __version__, settings
from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.cli.output import JsonFlag, show
from kdstudio.files import free_bytes, readable_bytes
from kdstudio.models.discovery import find_models, sample_teacher
from kdstudio.recipe import shipped_recipes
from kdstudio.registry import parameters_of

LOCAL_PACKAGES = ("torch", "transformers", "accelerate", "peft", "llama_cpp", "gguf", "safetensors")


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command("doctor")(doctor)
    app.command("recipes")(recipes)
    app.command("objectives")(objectives)
    app.command("coverage")(coverage)


def doctor(json: JsonFlag = False) -> None:
    """Versions, devices, models found on this disk, and what is missing."""
    installed = {name: _version(name) for name in ("PySide6-Essentials", "pyqtgraph", "openai", "keyring")}
    local = {
        name: _version(name.replace("_", "-") if name != "llama_cpp" else "llama-cpp-python") for name in LOCAL_PACKAGES
    }
    missing = [name for name in LOCAL_PACKAGES if importlib.util.find_spec(name) is None]
    memory = psutil.virtual_memory()
    sample = sample_teacher()
    report: dict[str, Any] = {
        "kdstudio": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": settings.thread_count(),
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "disk_free_bytes": free_bytes(settings.data_folder()),
        "devices": _devices() if not missing else ["cpu"],
        "packages": {**installed, **local},
        "missing": missing,
        "sample_teacher": str(sample) if sample else None,
        "models": [str(model.path) for model in find_models(settings.load().model_folders)],
        "folders": {
            "config": str(settings.config_folder()),
            "data": str(settings.data_folder()),
            "cache": str(settings.cache_folder()),
        },
    }
    show(report, as_json=json, text=_readable(report))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _readable(report: dict[str, Any]) -> str:
    lines = [
        f"KD Studio {report['kdstudio']}, Python {report['python']} ({sys.executable})",
        f"{report['system']}, {report['cores']} cores",
        f"Memory: {readable_bytes(report['memory_bytes'])}, {readable_bytes(report['memory_free_bytes'])} free",
        f"Disk: {readable_bytes(report['disk_free_bytes'])} free",
        f"Devices: {', '.join(report['devices'])}",
        "Packages: " + ", ".join(f"{name} {version}" for name, version in report["packages"].items() if version),
    ]
    if report["missing"]:
        lines.append(
            f'Missing for local models: {", ".join(report["missing"])}. Install: pip install "kdstudio[local]"'
        )
    lines.append(f"Sample teacher: {report['sample_teacher'] or 'not here yet (kdstudio demo gets it)'}")
    lines.append(f"Models found: {len(report['models'])}")
    return "\n".join(lines + [f"  {path}" for path in report["models"][:20]])


def recipes(json: JsonFlag = False) -> None:
    """The elicitation recipes that come with the program."""
    for recipe in shipped_recipes().values():
        header = recipe.recipe
        show(header.model_dump(mode="json"), as_json=json, text=f"{header.id:<20} {header.title}: {header.purpose}")


def objectives(json: JsonFlag = False) -> None:
    """The objectives a student can be trained towards, with their parameters and papers."""
    for entry in OBJECTIVES:
        parameters = [
            {
                "name": item.name,
                "default": item.default,
                "minimum": item.minimum,
                "maximum": item.maximum,
                "help": item.help,
            }
            for item in parameters_of(entry.params)
        ]
        record = {
            "id": entry.key,
            "label": entry.label,
            "family": entry.family,
            "when": entry.when,
            "reference": entry.reference,
            "needs": [str(signal) for signal in entry.needs],
            "parameters": parameters,
        }
        show(record, as_json=json, text=f"{entry.key:<16} {entry.label:<24} {entry.when}\n{'':<16} {entry.reference}")


def coverage(json: JsonFlag = False) -> None:
    """The survey's catalogue: what of it this version can do."""
    catalogue = _catalogue()
    have = {*shipped_recipes(), *OBJECTIVES.keys(), *_BUILT_IN}
    aliases = {"sequence_level": "supervised"}
    rows = {
        family: [(key, key in have or aliases.get(key) in have) for key in keys] for family, keys in catalogue.items()
    }
    covered = sum(there for entries in rows.values() for _, there in entries)
    total = sum(len(entries) for entries in rows.values())
    result = {
        "covered": covered,
        "total": total,
        "families": {
            family: {
                "covered": [k for k, there in entries if there],
                "missing": [k for k, there in entries if not there],
            }
            for family, entries in rows.items()
        },
    }
    lines = [
        f"{family:<26} {sum(t for _, t in entries)} of {len(entries)}: {', '.join(k for k, t in entries if t) or '-'}"
        for family, entries in rows.items()
    ]
    show(result, as_json=json, text="\n".join([*lines, f"{covered} of {total} covered"]))


_BUILT_IN = (
    "topk_logits",
    "full_logits",
    "sparse_topk",
    "assistant_only_mask",
    "depth_prune",
    "weight_inheritance",
    "lora",
)


def _catalogue() -> dict[str, list[str]]:
    """The survey's families and ids, from the shipped table."""
    text = resources.files("kdstudio").joinpath("resources", "survey_catalogue.txt").read_text("utf-8")
    entries = [line.partition(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {family.strip(): keys.split() for family, _, keys in entries}
