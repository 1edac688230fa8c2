"""`make bench`: measure, print a table and write bench.json. `ARGS="window table"` measures only those."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from tests.benchmarks import agreement, api, distillation, elicitation, quality, repeat, teachers, window
from tests.benchmarks.figures import Figure

BENCHMARKS = {
    "window": window.first_paint,
    "table": window.million_rows,
    "generate": teachers.generation,
    "score": teachers.scoring,
    "agreement": agreement.agreement,
    "repeat": repeat.repeat,
    "api": api.api,
    "elicit": elicitation.elicitation,
    "distillation": distillation.distillation,
    "quality": quality.quality,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks (all by default)."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"Unknown: {', '.join(unknown)}. Known: {', '.join(BENCHMARKS)}.")
        return 2
    figures: list[Figure] = []
    for name in names or list(BENCHMARKS):
        print(f"{name} ...", flush=True)
        for figure in BENCHMARKS[name]():
            figures.append(figure)
            print(f"  {figure}", flush=True)
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    report = {"machine": machine, "figures": [figure.as_dict() for figure in figures]}
    Path("bench.json").write_text(json.dumps(report, indent=2) + "\n")
    print("Written to bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
