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
ROOM = 16 << 20
"""Bytes that are asked for where nobody can say how much more a file will need."""
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
def atomic_file(path: Path, mode: str = "wb", *, needed: int = ROOM) -> Iterator[IO[Any]]:
    """Open a temporary file that takes the place of `path` only when the block ends without an error.

    Raises `KnownError` naming the bytes that lack of `needed` when the disk is full.
    """
    temporary = _temporary_beside(path)
    encoding = None if "b" in mode else "utf-8"
    with disk_errors(path, needed):  # outermost: what is free is looked at when the temporary file is gone
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _opened(temporary, mode, encoding) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _opened(temporary: Path, mode: str, encoding: str | None) -> IO[Any]:
    try:
        return temporary.open(mode, encoding=encoding)
    except FileNotFoundError as error:  # the folder is there, but takes no files, as /proc; or its disk just went
        raise NotADirectoryError(errno.ENOTDIR, "it takes no new files", str(temporary.parent)) from error


@contextlib.contextmanager
def atomic_folder(path: Path, *, needed: int = ROOM) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` only when the block ends without an error.

    An existing `path` is moved aside first and removed after, so that a crash leaves the old one or the new. Raises
    `KnownError` naming the bytes that lack of `needed` when the disk is full.
    """
    temporary, full = _temporary_beside(path), None
    with disk_errors(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
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
        except KnownError as error:
            if error.title != FULL:
                raise
            full = error  # of one file inside; what the folder as a whole lacks is what helps
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if full is not None:
            raise disk_full(path, needed) from full


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
            FULL,
            f"{purpose} needs {readable_bytes(needed)}; {readable_bytes(free)} are free on the disk of {folder}.",
            f"Free {readable_bytes(missing)} ({missing:,} bytes) and try again. Nothing was lost.",
        )


def disk_full(path: Path, needed: int = ROOM) -> KnownError:
    """What to say when writing `path` met a full disk: how many of the `needed` bytes are missing."""
    free = free_bytes(path.parent)
    missing = needed - free if needed > free else ROOM
    wanted = f"Free at least {readable_bytes(missing)} ({missing:,} bytes) and continue"
    said = f"Writing {path} stopped: {readable_bytes(free)} are free."
    return KnownError(FULL, said, f"{wanted}; the last complete version is intact.")


@contextlib.contextmanager
def disk_errors(path: Path, needed: int = ROOM) -> Iterator[None]:
    """Turn the operating system's "no space" and "not allowed" into a `KnownError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path, needed) from error
        if error.errno not in _REASONS:
            raise
        title, detail, hint = _REASONS[error.errno]
        raise KnownError(title, f"{path}: {detail or error.strerror}.", hint) from error


FULL = "The disk is full"
_TOO_LARGE = (
    "The file is too large for this disk",
    "its file system or the system's limit takes no larger file",
    "Choose a folder on another disk, or a smaller format; the last complete version is intact.",
)
_NOT_ALLOWED = ("Not allowed to write here", "", "Choose another folder or fix its rights.")
_NO_PLACE = ("No file can be written there", "", "Choose another folder or name.")
_BROKEN = ("The disk reports a fault", "", "Check the disk, and copy the project to another one soon.")
_REASONS = {
    errno.EFBIG: _TOO_LARGE,  # FAT32 ends at 4 GiB, and a system may limit a process's files
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _NOT_ALLOWED),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG), _NO_PLACE),
    errno.EIO: _BROKEN,
}


def readable_bytes(count: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
