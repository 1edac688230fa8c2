"""Says what this machine lacks before KD Studio is set up, and how to get it; with the standard library only.

Written so that an older Python can run it too and be told that it is too old. Exit code 0: set-up can go on (what is
reported is needed for the window only). Exit code 1: something is missing without which set-up must fail.

    python packaging/requirements_check.py
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LOWEST_PYTHON = (3, 11)

# What PySide6-Essentials loads and does not bring along, found with `objdump -p` on its libraries and plug-ins.
# File that is loaded: (Debian and Ubuntu package, Fedora package).
QT_LIBRARIES = {
    "libEGL.so.1": ("libegl1", "libglvnd-egl"),
    "libGL.so.1": ("libgl1", "libglvnd-glx"),
    "libX11.so.6": ("libx11-6", "libX11"),
    "libxkbcommon.so.0": ("libxkbcommon0", "libxkbcommon"),
    "libfontconfig.so.1": ("libfontconfig1", "fontconfig"),
    "libfreetype.so.6": ("libfreetype6", "freetype"),
    "libdbus-1.so.3": ("libdbus-1-3", "dbus-libs"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libgthread-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libzstd.so.1": ("libzstd1", "libzstd"),
    "libbrotlidec.so.1": ("libbrotli1", "libbrotli"),
    "libgssapi_krb5.so.2": ("libgssapi-krb5-2", "krb5-libs"),
}
X11_LIBRARIES = {
    "libxcb-cursor.so.0": ("libxcb-cursor0", "xcb-util-cursor"),
    "libxcb-icccm.so.4": ("libxcb-icccm4", "xcb-util-wm"),
    "libxcb-image.so.0": ("libxcb-image0", "xcb-util-image"),
    "libxcb-keysyms.so.1": ("libxcb-keysyms1", "xcb-util-keysyms"),
    "libxcb-randr.so.0": ("libxcb-randr0", "libxcb"),
    "libxcb-render-util.so.0": ("libxcb-render-util0", "xcb-util-renderutil"),
    "libxcb-shape.so.0": ("libxcb-shape0", "libxcb"),
    "libxcb-shm.so.0": ("libxcb-shm0", "libxcb"),
    "libxcb-sync.so.1": ("libxcb-sync1", "libxcb"),
    "libxcb-util.so.1": ("libxcb-util1", "xcb-util"),
    "libxcb-xfixes.so.0": ("libxcb-xfixes0", "libxcb"),
    "libxcb-xkb.so.1": ("libxcb-xkb1", "libxcb"),
    "libxkbcommon-x11.so.0": ("libxkbcommon-x11-0", "libxkbcommon-x11"),
    "libX11-xcb.so.1": ("libx11-xcb1", "libX11-xcb"),
}
WAYLAND_LIBRARIES = {
    "libwayland-client.so.0": ("libwayland-client0", "libwayland-client"),
    "libwayland-cursor.so.0": ("libwayland-cursor0", "libwayland-cursor"),
    "libwayland-egl.so.1": ("libwayland-egl1", "libwayland-egl"),
}


@dataclass(frozen=True)
class Missing:
    """One thing that is not there: what it is needed for, how to get it, and whether set-up must stop for it."""

    what: str
    why: str
    how: dict[str, str]
    stops: bool


def can_load(library: str, folder: Path | None = None) -> bool:
    """Whether the dynamic linker finds `library`, or `folder` holds it."""
    if folder is not None and (folder / library).exists():
        return True
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def absent(libraries: dict[str, tuple[str, str]], folder: Path | None = None) -> list[str]:
    """The libraries of a table that cannot be loaded; none on macOS and Windows, where Qt brings its own."""
    if not sys.platform.startswith("linux"):
        return []
    return [name for name in libraries if not can_load(name, folder)]


def packages(names: Iterable[str], libraries: dict[str, tuple[str, str]], column: int) -> str:
    """The packages that hold these libraries: `column` 0 for Debian, 1 for Fedora."""
    return " ".join(dict.fromkeys(libraries[name][column] for name in names))


def python_missing() -> list[Missing]:
    """An interpreter that is too old, or one without the parts that make an environment."""
    found: list[Missing] = []
    if sys.version_info < LOWEST_PYTHON:
        how = {
            "Debian, Ubuntu": "sudo apt install python3.11 python3.11-venv",
            "Fedora": "sudo dnf install python3.11",
            "macOS": "brew install python@3.11",
            "Windows": "winget install Python.Python.3.11",
        }
        version = platform.python_version()
        found.append(Missing("Python 3.11 or newer", f"this is Python {version}", how, stops=True))
    elif importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        how = {"Debian, Ubuntu": f"sudo apt install python{version}-venv"}
        why = "packages are installed into .venv, never into your system"
        found.append(Missing("the venv module of Python", why, how, stops=True))
    return found


def compiler_missing() -> list[Missing]:
    """No C++ compiler: llama.cpp is compiled for this machine's processor during set-up."""
    known = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if sys.platform == "win32":
        installer = Path(os.environ.get("ProgramFiles(x86)", "C:/")) / "Microsoft Visual Studio/Installer/vswhere.exe"  # noqa: SIM112
        known += ["cl", str(installer)]
    if any(name and shutil.which(name) for name in known):
        return []
    how = {
        "Debian, Ubuntu": "sudo apt install g++",
        "Fedora": "sudo dnf install gcc-c++",
        "macOS": "xcode-select --install",
        "Windows": "winget install Microsoft.VisualStudio.2022.BuildTools --override "
        '"--wait --add Microsoft.VisualStudio.Workload.VCTools --includeRecommended"',
    }
    return [Missing("a C++ compiler", "llama.cpp is compiled for this machine's processor", how, stops=True)]


def git_missing() -> list[Missing]:
    """No git: only those who change KD Studio need it."""
    if shutil.which("git"):
        return []
    how = {
        "Debian, Ubuntu": "sudo apt install git",
        "Fedora": "sudo dnf install git",
        "macOS": "xcode-select --install",
        "Windows": "winget install Git.Git",
    }
    return [Missing("git", "needed to fetch new versions", how, stops=False)]


def qt_missing(folder: Path | None = None) -> list[Missing]:
    """Libraries without which Qt cannot start at all, or cannot open a window on this desktop."""
    found: list[Missing] = []
    core = absent(QT_LIBRARIES, folder)
    if core:
        found.append(
            Missing(
                "libraries that Qt needs: " + ", ".join(core),
                "the window and its tests; the command line works without them",
                linux_how(core, QT_LIBRARIES),
                stops=False,
            )
        )
    screen = [] if absent(WAYLAND_LIBRARIES) == [] and os.environ.get("WAYLAND_DISPLAY") else absent(X11_LIBRARIES)
    if screen and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        why = "a window on this screen; tests and screenshots need no screen"
        what = "libraries of X11: " + ", ".join(screen)
        found.append(Missing(what, why, linux_how(screen, X11_LIBRARIES), stops=False))
    return found


def linux_how(names: Iterable[str], libraries: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The two commands that install these libraries."""
    names = list(names)
    return {
        "Debian, Ubuntu": "sudo apt install " + packages(names, libraries, 0),
        "Fedora": "sudo dnf install " + packages(names, libraries, 1),
    }


def everything_missing(qt_folder: Path | None = None) -> list[Missing]:
    """All that this machine lacks; `qt_folder` is where libraries for Qt were unpacked, if they were."""
    return python_missing() + compiler_missing() + git_missing() + qt_missing(qt_folder)


def report(found: Iterable[Missing]) -> str:
    """What is missing, as text for a terminal."""
    lines: list[str] = []
    for one in found:
        lines.append(("Missing: " if one.stops else "Missing, but set-up can go on: ") + one.what)
        lines.append("    why: " + one.why)
        lines += [f"    {system + ':':<15} {command}" for system, command in one.how.items()]
    return "\n".join(lines)


def main() -> int:
    """Prints the report."""
    unpacked = Path(__file__).resolve().parents[1] / ".venv" / "qt-libraries"
    found = everything_missing(unpacked if unpacked.is_dir() else None)
    print(report(found) if found else "This machine has all that KD Studio needs.")
    return 1 if any(one.stops for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
