"""Fails if a Python file of ours is longer than the house allows: such a file does more than one thing."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("kdstudio", "tests", "packaging")
LONGEST = 400


def main() -> int:
    """Names the files that are too long; exit code 1 if there are any."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = {path: lines for path, lines in lengths.items() if lines > LONGEST}
    for path, lines in long.items():
        print(f"{path.relative_to(ROOT)}: {lines} lines, at most {LONGEST} are allowed")
    if not long:
        print(f"{len(files)} files, the longest has {max(lengths.values(), default=0)} lines")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
