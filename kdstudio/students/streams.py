"""A network run layer by layer over many rows at once, so that one layer can be looked at, or changed, between two.

Only one state a token is held, whatever the network's depth. What all rows begin with is computed once for each layer:
every row attends to its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

Precision = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class CalibrationRows:
    """Token rows that begin alike: `prefix` [P], and `batches` of what follows, [B, L] padded on the right.

    `lengths` [B] of each batch count the real tokens of its rows.
    """

    prefix: Tensor
    batches: Sequence[Tensor]
    lengths: Sequence[Tensor]


class ResidualStream:
    """What flows between a network's layers: `states`, in float32, in front of the layer that `advance` runs next.

    The first state [1, P, H] is the prefix's; it is followed by one [B, L, H] for each batch.
    """

    def __init__(self, network: PreTrainedModel, rows: CalibrationRows, precision: Precision) -> None:
        self._network, self._precision = network, precision
        self._prefix = len(rows.prefix)
        embedding = network.get_submodule("model.embed_tokens")
        self.states: list[Tensor] = [embedding(ids) for ids in (rows.prefix.unsqueeze(0), *rows.batches)]
        self.layers = list(network.get_submodule("model.layers").children())

    def advance(self, layer: nn.Module) -> None:
        """Run `layer` over every state."""
        cache = DynamicCache()
        if self._prefix:
            self.states[0] = self._run(layer, self.states[0], 0, cache)
        for place, state in enumerate(self.states[1:], start=1):
            self.states[place] = self._run(layer, state, self._prefix, self._shared(cache, state.shape[0]))

    def final(self) -> list[Tensor]:
        """The batches' states [B, L, H] as the head would read them, behind the last norm; the prefix is left out."""
        norm = self._network.get_submodule("model.norm")
        with self._precision():
            return [norm(state).float() for state in self.states[1:]]

    def _run(self, layer: nn.Module, state: Tensor, first: int, cache: DynamicCache) -> Tensor:
        """`state` behind `layer`, its tokens at the positions from `first` on.

        Padding is on the right, so a causal mask alone keeps it away from every real token.
        """
        length = state.shape[1]
        positions = torch.arange(first, first + length, device=state.device).unsqueeze(0)
        rotary = self._network.get_submodule("model.rotary_emb")(state, positions)
        mask = torch.ones(length, first + length, dtype=torch.bool, device=state.device).tril(first) if first else None
        with self._precision():
            output: Tensor = layer(
                state,
                attention_mask=mask if mask is None else mask[None, None],
                position_ids=positions,
                position_embeddings=rotary,
                past_key_values=cache,
                use_cache=True,
            )
        return output.float()

    def _shared(self, cache: DynamicCache, count: int) -> DynamicCache:
        """A cache of `count` rows that all hold the prefix's keys and values (views, not copies)."""
        repeated = DynamicCache()
        for number, layer in enumerate(cache.layers):
            if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None:
                repeated.update(layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1), number)
        return repeated
