"""Verbs that only tell: doctor, recipes, objectives, coverage."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from typing import Any

import psutil
import typer

from kdstudio import __version__, settings
from kdstudio.catalogue.coverage import Covered
from kdstudio.catalogue.coverage import coverage as survey_coverage
from kdstudio.catalogue.objectives import OBJECTIVES
from kdstudio.cli.output import JsonFlag, show
from kdstudio.files import free_bytes, readable_bytes
from kdstudio.models.discovery import find_models, sample_teacher
from kdstudio.recipe import claims, shipped_recipes, shipped_rounds_recipes, shipped_training_recipes
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
    """The recipes that come with the program: for `elicit`, for `train`, and for `rounds` of both."""
    shipped = (
        ("elicit", shipped_recipes()),
        ("train", shipped_training_recipes()),
        ("rounds", shipped_rounds_recipes()),
    )
    for verb, found in shipped:
        for header in (recipe.recipe for recipe in found.values()):
            record = {**header.model_dump(mode="json"), "verb": verb}
            show(record, as_json=json, text=f"{verb:<7} {header.id:<26} {header.title}: {header.purpose}")


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
            "methods": list(entry.methods),
            "parameters": parameters,
        }
        show(record, as_json=json, text=f"{entry.key:<16} {entry.label:<24} {entry.when}\n{'':<16} {entry.reference}")


def coverage(json: JsonFlag = False) -> None:
    """The survey's catalogue: what of it this version can do, by what, and which test shows it."""
    found = survey_coverage(claims())
    there = [entry for entry in found if entry.by]
    families = list(dict.fromkeys(entry.family for entry in found))
    result = {
        "covered": len(there),
        "total": len(found),
        "families": {
            family: {
                "covered": [entry.id for entry in there if entry.family == family],
                "missing": [entry.id for entry in found if entry.family == family and not entry.by],
            }
            for family in families
        },
        "ids": [asdict(entry) for entry in found],
    }
    show(result, as_json=json, text="\n".join(_coverage_lines(found, families)))


def _coverage_lines(found: list[Covered], families: list[str]) -> list[str]:
    lines = []
    for family in families:
        own = [entry for entry in found if entry.family == family]
        lines.append(f"{family}: {sum(bool(entry.by) for entry in own)} of {len(own)}")
        for entry in own:
            shown = f"{entry.by}  {entry.reference}  {entry.test}" if entry.by else "not yet"
            lines.append(f"  {entry.id:<26} {shown}")
            named = entry.by.replace("training recipe", "train").replace("recipe with rounds", "rounds")
            if others := [name for name in entry.recipes if name != named.replace("recipe", "elicit")]:
                lines.append(f"  {'':<26} recipes: {', '.join(others)}")
    return [*lines, f"{sum(bool(entry.by) for entry in found)} of {len(found)} covered"]
