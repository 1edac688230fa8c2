"""A running mean of the weights: steadier than the last step's, after Polyak & Juditsky 1992."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from kdstudio.distillation.shards import cut_like


class WeightAverage:
    """mean <- decay * mean + (1 - decay) * weights after each step. With a decay of 0 there is none."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self._means = {name: item.detach().clone() for name, item in parameters.items()} if decay else {}

    def restart(self) -> None:
        """Begin at the weights as they are now."""
        for name, mean in self._means.items():
            mean.copy_(self._parameters[name].detach())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step `step` (from 1). Early steps count for more, so that the beginning is soon forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self._means.items():
            mean.lerp_(self._parameters[name].detach(), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The mean in the weights' place while the block lasts."""
        if not self._means:
            yield
            return
        kept = {name: item.detach().clone() for name, item in self._parameters.items()}
        self._put(self._means)
        try:
            yield
        finally:
            self._put(kept)

    def keep(self) -> None:
        """Leave the mean in the weights' place: the end of a run."""
        if self._means:
            self._put(self._means)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._parameters[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {f"mean.{name}": mean for name, mean in self._means.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""
        for name, mean in self._means.items():
            mean.copy_(cut_like(tensors[f"mean.{name}"], mean))
