"""Where a network runs, and in which number format."""

from __future__ import annotations

import torch

from kdstudio.errors import BadInput


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
