"""The weights that a run trains, with what belongs to each: its gradient, AdamW's moments, its running mean."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudio.catalogue.training import OptimizerTable
from kdstudio.distillation.averaging import WeightAverage
from kdstudio.distillation.schedule import learning_rate, make_optimizer
from kdstudio.distillation.shards import clip_gradients, shard, unshard


class TrainedWeights:
    """Those of `network` and of the objectives' `own` modules; whole in every process until `shard` cuts them.

    `parameters` by name are in the optimiser's order.
    """

    def __init__(
        self, network: PreTrainedModel, own: nn.Module, table: OptimizerTable, accelerator: Accelerator
    ) -> None:
        self._network, self._own, self._table, self._accelerator = network, own, table, accelerator
        self.sharded = False
        self._gather()

    def _gather(self) -> None:
        named = [*self._network.named_parameters(), *self._own.named_parameters("objective")]
        self.parameters: dict[str, Tensor] = {name: item for name, item in named if item.requires_grad}
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.parameters, self._table)
        self.average = WeightAverage(self.parameters, self._table.ema)

    def shard(self) -> None:
        """Cut the network's blocks over all processes, before the first step. All take part."""
        shard(self._network, self._accelerator.device, self._accelerator.num_processes)
        self.sharded = True
        self._gather()

    def finish(self) -> None:
        """Leave the running mean in the weights' place; in the first process they are whole again. All take part."""
        self.average.keep()
        if self.sharded:
            unshard(self._network, kept=self._accelerator.is_main_process)

    def clip(self) -> float:
        """Scale the gradients down as the recipe says; returns the norm they had."""
        items, most = list(self.parameters.values()), self._table.clip_norm or math.inf
        return clip_gradients(items, most) if self.sharded else float(self._accelerator.clip_grad_norm_(items, most))

    def update(self, step: int, total: int) -> float:
        """Take optimiser step `step` (from 0) of `total`; returns its learning rate."""
        rate = learning_rate(step, total, self._table)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(step + 1)
        return rate
