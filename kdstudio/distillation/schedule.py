"""The optimiser, and its learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from kdstudio.catalogue.training import OptimizerTable


def learning_rate(step: int, total: int, table: OptimizerTable) -> float:
    """The rate at `step` (from 0) of `total`: a linear warm-up from rate / w, then cosine, linear or constant.

    Cosine after Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983, equation 5, without restarts. The last step
    has `final_fraction` of the peak; a warm-up longer than the run is cut to it.
    """
    warmup = min(table.warmup_steps, total)
    if step < warmup:
        return table.learning_rate * (step + 1) / warmup
    if table.schedule == "constant":
        return table.learning_rate
    share = (step - warmup + 1) / max(1, total - warmup)
    fall = 0.5 * (1 + math.cos(math.pi * share)) if table.schedule == "cosine" else 1 - share
    return table.learning_rate * (table.final_fraction + (1 - table.final_fraction) * fall)


def make_optimizer(parameters: Mapping[str, Tensor], table: OptimizerTable) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101); decay on matrices only.

    Whole weights and those cut over several processes are groups of their own: one kernel takes only either.
    """
    decays = {True: table.weight_decay, False: 0.0}
    groups = [
        {"params": chosen, "weight_decay": decays[matrices]}
        for matrices, cut in ((True, False), (False, False), (True, True), (False, True))
        if (chosen := [i for i in parameters.values() if (i.dim() >= 2, isinstance(i, DTensor)) == (matrices, cut)])
    ]
    return torch.optim.AdamW(
        groups,
        lr=table.learning_rate,
        betas=(table.beta1, table.beta2),
        fused=True,  # one pass over memory: a quarter of the time on a CPU
    )
