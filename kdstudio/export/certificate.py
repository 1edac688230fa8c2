"""The certificate of a written file: loaded again and compared with the student that was trained, on real text.

An export that nobody read back is a hope. A file in F16 or F32 must find the same token likeliest as the student at 99
of 100 positions or it fails; what a smaller format loses is measured and shown, never hidden.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp

from kdstudio import files
from kdstudio.evaluation.gap import Gap, measure
from kdstudio.evaluation.logits import LlamaLogits, LogitSource, Pair
from kdstudio.export.quantize import describe
from kdstudio.jobs.events import now

MAXIMUM_POSITIONS = 2000
QUANTIZED_POSITIONS = 1000  # no threshold hangs on these: half the time for a figure that is good to a percent
# BF16 keeps 8 bits of each weight: a faithful copy may lose a few close calls, a wrong one loses most of all.
REQUIRED_AGREEMENT = {"F32": 0.99, "F16": 0.99, "BF16": 0.9, "SAFETENSORS": 0.99}
CLOSE_CALL_KL = 1e-3
"""Nats. Among fewer than a hundred positions a single one may be lost, if nowhere the distributions differ by more: it
was a tie but for a rounding error."""
CERTIFICATE_SUFFIX = ".certificate.json"


@dataclass(frozen=True)
class Certificate:
    """What was found. `kl` is the mean KL(student as trained || file) in nats, `largest_kl` its worst position."""

    file: str
    quantization: str
    bytes: int
    sha256: str
    passed: bool
    required_agreement: float
    top1_agreement: float
    kl: float
    largest_kl: float
    positions: int
    rows: int
    text: str
    same_tokens: bool
    tensor_types: dict[str, int] = field(default_factory=dict)
    note: str = ""
    checked_with: str = ""
    created: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def certify(
    path: Path,
    quantization: str,
    trained: LogitSource,
    pairs: Sequence[Pair],
    *,
    text: str,
    same_tokens: bool = True,
    written: LogitSource | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Load `path` again and compare it with `trained` at the response positions of `pairs`.

    At most 2,000 positions for a format that must pass, 1,000 for a quantized one. `text` says what they are,
    `same_tokens` whether the file's tokenizer gave the ids of the student's own, `written` what was written, if it is
    not a GGUF file for llama.cpp. `progress` gets rows and positions done.
    Raises `KnownError` when the file cannot be loaded at all.
    """
    longest = max((len(prompt) + len(response) for prompt, response in pairs), default=1)
    again = written or LlamaLogits(path, context_tokens=longest)
    try:
        limit = MAXIMUM_POSITIONS if quantization in REQUIRED_AGREEMENT else QUANTIZED_POSITIONS
        meter = measure(trained, again, pairs, maximum_positions=limit, progress=progress)
    finally:
        again.close()
    gap = meter.result()
    required = REQUIRED_AGREEMENT.get(quantization, 0.0)
    described = describe(path, quantization) if path.is_file() else None
    weights = path if path.is_file() else path / "model.safetensors"
    return Certificate(
        file=path.name,
        quantization=quantization,
        bytes=described.bytes if described else files.folder_bytes(path),
        sha256=sha256(weights) if weights.is_file() else "",
        passed=same_tokens
        and math.isfinite(gap.forward_kl)
        and (gap.top1_agreement >= required or _one_close_call(gap, meter.largest_kl)),
        required_agreement=required,
        top1_agreement=gap.top1_agreement,
        kl=gap.forward_kl,
        largest_kl=meter.largest_kl,
        positions=gap.positions,
        rows=gap.rows,
        text=text,
        same_tokens=same_tokens,
        tensor_types=described.tensor_types if described else {},
        note=described.note if described else "",
        checked_with=f"llama-cpp-python {llama_cpp.__version__}" if described else "transformers",
        created=now(),
    )


def _one_close_call(gap: Gap, largest_kl: float) -> bool:
    return round((1 - gap.top1_agreement) * gap.positions) == 1 and largest_kl <= CLOSE_CALL_KL


def write_certificate(certificate: Certificate, folder: Path) -> Path:
    """Write NAME.certificate.json beside the file it speaks of."""
    path = folder / (certificate.file.removesuffix(".gguf") + CERTIFICATE_SUFFIX)
    files.write_text(path, json.dumps(certificate.as_dict(), indent=2, ensure_ascii=False) + "\n")
    return path


def read_certificates(folder: Path) -> list[Certificate]:
    """Every readable certificate in `folder` whose file is still there, largest file first."""
    found = []
    for path in sorted(folder.glob(f"*{CERTIFICATE_SUFFIX}")):
        try:
            certificate = Certificate(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if (folder / certificate.file).exists():
            found.append(certificate)
    return sorted(found, key=lambda item: -item.bytes)


def sha256(path: Path) -> str:
    """Hash of a whole file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
