"""Where a student is trained and in which number format."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from kdstudio.catalogue.training import RunTable
from kdstudio.networks.devices import choose_device, choose_precision


def make_accelerator(table: RunTable) -> Accelerator:
    """The device and precision a recipe asks for. Raises `BadInput` for a device that this machine lacks."""
    device = choose_device(table.device)
    precision = choose_precision(table.precision, device)
    if device == "cuda" and precision == "bf16":
        torch.set_float32_matmul_precision("high")  # the head stays in float32; TF32 keeps it fast there
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
