"""Which formats an export writes, in which order, from what, and how much room they take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from kdstudio.catalogue.quantizations import QUANTIZATIONS
from kdstudio.errors import BadInput
from kdstudio.export.weights import ITEM_BYTES, FloatType, read_weights

FOLDER_FORMAT = "SAFETENSORS"
_MARGIN_BYTES = 64 << 20


def chosen_formats(parameters: dict[str, Any]) -> list[str]:
    """The formats that were asked for, once each, in the catalogue's order. Raises `BadInput` for an unknown one."""
    asked = [str(item).upper() for item in parameters.get("quantizations") or ()]
    if parameters.get("safetensors"):
        asked.append(FOLDER_FORMAT)
    for item in asked:
        if item != FOLDER_FORMAT:
            QUANTIZATIONS[item]  # explains itself when it is unknown
    if not asked:
        raise BadInput("No format was chosen", "There is nothing to export.", "Choose at least one, for example Q8_0.")
    return [key for key in (*QUANTIZATIONS.keys(), FOLDER_FORMAT) if key in asked]


def is_direct(key: str) -> TypeGuard[FloatType]:
    """Whether we write this format ourselves."""
    return key in ITEM_BYTES


def base_format(wanted: Sequence[str]) -> FloatType | None:
    """The format that quantizations are made from: one that is wanted anyway, else F16; None if there are none."""
    if all(item == FOLDER_FORMAT or is_direct(item) for item in wanted):
        return None
    return "F32" if "F32" in wanted and "F16" not in wanted else "F16"


def steps_of(wanted: Sequence[str]) -> list[str]:
    """All that is written, in order: direct formats, the base if it is not one of them, quantized ones, the folder."""
    base = base_format(wanted)
    direct = [item for item in wanted if is_direct(item)]
    quantized = [item for item in wanted if item != FOLDER_FORMAT and not is_direct(item)]
    extra = [base] if base is not None and base not in direct else []
    return [*direct, *extra, *quantized, *([FOLDER_FORMAT] if FOLDER_FORMAT in wanted else [])]


def needed_bytes(student: Path, wanted: Sequence[str]) -> int:
    """Room that the export of a student folder takes while it is being made, a little above rather than below."""
    tensors = read_weights(student).values()
    numbers = sum(tensor.data.size for tensor in tensors)
    total = _MARGIN_BYTES
    for step in steps_of(wanted):
        if step == FOLDER_FORMAT:
            total += sum(tensor.data.nbytes for tensor in tensors)
            continue
        bits = QUANTIZATIONS[step].bits
        # Where K-quants cannot split a row, an older type of up to 8.5 bits takes their place.
        total += int(numbers * (bits if bits >= 8 else min(8.5, bits * 1.4)) / 8) + (16 << 20)
    return total
