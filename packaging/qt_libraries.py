"""Brings the few system libraries that Qt needs into `.venv/qt-libraries`, for machines without a desktop.

Only for Debian and its kin, only if some are missing, and never into the system: apt fetches the packages into a folder
of ours (which needs no root), they are unpacked there, and the Makefile puts that folder on the linker's path. Where
this cannot be done, requirements_check.py says what to install.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from requirements_check import QT_LIBRARIES, absent, packages

FOLDER = "qt-libraries"

# OpenGL's drivers come with the loader's packages. Nothing of ours draws through them, and they are 150 MB.
DRIVERS = ("libegl-mesa", "libgl1-mesa", "libglx-mesa", "libgbm", "libllvm", "libz3", "mesa-")


def possible() -> bool:
    """Whether this system has the two programs that fetch and unpack Debian packages."""
    return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None


def quietly(*command: str) -> None:
    """Runs a command and keeps what it says for the case that it fails.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run(command, check=True, capture_output=True, text=True)


def fetch(work: Path, names: str) -> list[Path]:
    """Downloads the packages and what they depend on, less what is installed, into `work`.

    Raises:
        subprocess.CalledProcessError: apt could not reach its sources or does not know a package.
    """
    (work / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (work / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "-q", "-y", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]
    command += ["-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache::archives={work / 'archives'}"]
    command += [
        "-o",
        f"Dir::Cache::pkgcache={work / 'pkgcache.bin'}",
        "-o",
        f"Dir::Cache::srcpkgcache={work / 'src.bin'}",
    ]
    for verb in (["update"], ["install", "--download-only", "--no-install-recommends", *names.split()]):
        quietly(*command, *verb)
    return sorted((work / "archives").glob("*.deb"))


def bring(environment: Path, say: Callable[[str], None]) -> bool:
    """Makes sure that Qt's libraries can be loaded; true if they can.

    Args:
        environment: the virtual environment's folder.
        say: tells the person what happens, in whole sentences.
    """
    target = environment / FOLDER
    names = absent(QT_LIBRARIES, target)
    if not names:
        return True
    if not possible():
        return False
    wanted = packages(names, QT_LIBRARIES, 0)
    say(f"Qt lacks {wanted}. Unpacking Debian's packages into {target}; your system is not changed.")
    work = environment / "qt-packages"
    try:
        for package in fetch(work, wanted):
            if not package.name.startswith(DRIVERS):
                quietly("dpkg-deb", "-x", str(package), str(work / "unpacked"))
    except subprocess.CalledProcessError as error:
        say(f"That did not work: {(str(error.stderr).strip().splitlines() or [str(error)])[-1]}")
        return False
    target.mkdir(exist_ok=True)
    for library in (work / "unpacked").glob("**/lib/**/*.so*"):
        # libX11.so.6, as it is asked for, but not the libX11.so.6.4.0 that this is a link to.
        if library.name.rpartition(".so")[2].count(".") <= 1:
            shutil.copy2(library, target / library.name)
    shutil.rmtree(work)
    return not absent(QT_LIBRARIES, target)
