"""Where a student is trained and in which number format."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from kdstudio.catalogue.training import RunTable
from kdstudio.errors import BadInput


def make_accelerator(table: RunTable) -> Accelerator:
    """The device and precision a recipe asks for. Raises `BadInput` for a device that this machine lacks."""
    device = choose_device(table.device)
    precision = choose_precision(table.precision, device)
    if device == "cuda" and precision == "bf16":
        torch.set_float32_matmul_precision("high")  # the head stays in float32; TF32 keeps it fast there
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def choose_device(wanted: str) -> str:
    """`auto`: CUDA, else Apple's MPS, else the CPU."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in present.items() if there)
    if not present[wanted]:
        raise BadInput(
            "This device is not there",
            f"The recipe asks for {wanted}; torch finds {', '.join(name for name, there in present.items() if there)}.",
            'Set run.device to "auto".',
        )
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """`auto`: bf16 where matrix products gain from it (a GPU with bf16, a CPU with bf16 instructions), else fp32."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "cpu":
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
    return "fp32"
