"""The person's own settings: one TOML file in the platform's configuration folder, typed and forgiving.

`KDSTUDIO_HOME` moves everything (settings, data, caches) into one folder: tests and portable installs use it.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

import platformdirs
import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdstudio import files


class Settings(BaseModel):
    """What a person can set once for all projects. Unknown keys of another version are kept out, not fatal."""

    model_config = ConfigDict(extra="ignore")

    theme: Literal["system", "light", "dark"] = "system"
    recent_projects: list[str] = Field(default_factory=list)
    model_folders: list[str] = Field(default_factory=list)
    threads: int = Field(0, ge=0, le=1024, description="Threads for llama.cpp and torch; 0 takes all physical cores.")
    interpreter: str = Field("", description="Another Python that runs the jobs; empty takes this one.")


def _home() -> Path | None:
    home = os.environ.get("KDSTUDIO_HOME")
    return Path(home) if home else None


def config_folder() -> Path:
    """Where settings live."""
    home = _home()
    return home / "config" if home else Path(platformdirs.user_config_dir("kdstudio", appauthor=False))


def data_folder() -> Path:
    """Where models that the person asked for live."""
    home = _home()
    return home / "data" if home else Path(platformdirs.user_data_dir("kdstudio", appauthor=False))


def cache_folder() -> Path:
    """Where what can be made again lives (dequantised teachers)."""
    home = _home()
    return home / "cache" if home else Path(platformdirs.user_cache_dir("kdstudio", appauthor=False))


def load() -> Settings:
    """Read the settings; a missing or damaged file gives the defaults, never an error at start."""
    path = config_folder() / "settings.toml"
    try:
        return Settings.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError, ValidationError):
        return Settings()


def save(settings: Settings) -> None:
    """Write the settings atomically."""
    files.write_text(config_folder() / "settings.toml", tomlkit.dumps(settings.model_dump()))


def remember_project(folder: Path) -> None:
    """Put a project at the top of the recent ones (at most ten)."""
    settings = load()
    path = str(folder.resolve())
    settings.recent_projects = [path, *(item for item in settings.recent_projects if item != path)][:10]
    save(settings)


def thread_count() -> int:
    """Threads for heavy work: the setting, else `KDSTUDIO_THREADS`, else the physical cores this process may use."""
    chosen = load().threads or int(os.environ.get("KDSTUDIO_THREADS", "0") or 0)
    if chosen:
        return chosen
    import psutil

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, psutil.cpu_count(logical=False) or available))
