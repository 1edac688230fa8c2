"""Files that are either the old version or the new one, never half of each.

Everything durable goes through here: write beside the target, fsync, rename, fsync the folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kdstudio.errors import KnownError

TEMPORARY_MARK = ".kdtmp-"
_RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush every file below `folder`, then the folders themselves, innermost first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(parent) / name, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(parent))


def _temporary_beside(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_MARK}{path.name}-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file that takes the place of `path` only when the block ends without an error.

    Raises `KnownError` naming the missing bytes when the disk is full.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with disk_errors(path), temporary.open(mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        with disk_errors(path):
            temporary.replace(path)
            fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` only when the block ends without an error.

    An existing `path` is moved aside first and removed after, so that a crash leaves the old one or the new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(path)
    temporary.mkdir()
    try:
        with disk_errors(path):
            yield temporary
            fsync_tree(temporary)
            if path.exists():
                aside = _temporary_beside(path)
                path.rename(aside)
                temporary.rename(path)
                shutil.rmtree(aside, ignore_errors=True)
            else:
                temporary.rename(path)
            fsync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` (UTF-8), atomically."""
    with atomic_file(path, "w") as stream:
        stream.write(text)


def remove_temporaries(folder: Path) -> int:
    """Delete what a killed process left behind directly in `folder`; returns how many entries went."""
    leftovers = list(folder.glob(f"{TEMPORARY_MARK}*")) if folder.is_dir() else []
    for entry in leftovers:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(leftovers)


def safe_name(name: str, fallback: str = "unnamed") -> str:
    """A file name that no system misreads: no separators, drives, control characters, reserved or hidden names."""
    cleaned = re.sub(r"[^\w\-. ()\[\]+]", "_", name, flags=re.UNICODE).strip(" .")[:120].rstrip(" .")
    if not cleaned or cleaned.split(".")[0].strip().lower() in _RESERVED_NAMES:
        cleaned = f"{fallback}_{cleaned}".rstrip("_")
    return cleaned


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk that holds `folder`, or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def files_below(folder: Path, suffix: str = "") -> Iterator[Path]:
    """The finished files below `folder` whose names end in `suffix`.

    A job may be writing there: temporary files are left out, and a folder that vanishes on the way is passed over.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(TEMPORARY_MARK)]
        for name in names:
            if name.endswith(suffix) and not name.startswith(TEMPORARY_MARK):
                yield Path(parent) / name


def folder_bytes(folder: Path) -> int:
    """Bytes of all finished files below `folder`; one that vanishes meanwhile counts nothing."""
    total = 0
    for path in files_below(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise `KnownError` before a write that cannot fit, saying how many bytes are missing."""
    free = free_bytes(folder)
    if free < needed:
        missing = needed - free
        raise KnownError(
            "Not enough disk space",
            f"{purpose} needs {readable_bytes(needed)}; {readable_bytes(free)} are free on the disk of {folder}.",
            f"Free {readable_bytes(missing)} ({missing:,} bytes) and try again. Nothing was lost.",
        )


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space" and "not allowed" into a `KnownError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise KnownError(
                "The disk is full",
                f"Writing {path} stopped: {readable_bytes(free_bytes(path.parent))} are free.",
                "Free some space and continue; the last complete version is intact.",
            ) from error
        if error.errno == errno.EFBIG:  # FAT32 ends at 4 GiB, and a system may limit a process's files
            raise KnownError(
                "The file is too large for this disk",
                f"Writing {path} stopped: its file system or the system's limit takes no larger file.",
                "Choose a folder on another disk, or a smaller format; the last complete version is intact.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise KnownError(
                "Not allowed to write here", f"{path}: {error.strerror}.", "Choose another folder or fix its rights."
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise KnownError(
                "No file can be written there", f"{path}: {error.strerror}.", "Choose another folder or name."
            ) from error
        raise


def readable_bytes(count: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
