"""A network that reads row by row's next token, many rows at once, with keys and values of what came before."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kdstudio.networks.heads import head_logits, head_weight


def rows_at_once(networks: Sequence[PreTrainedModel], tokens: int, cache_bytes: int) -> int:
    """How many rows of so many tokens, one at least, have float32 keys and values that fit `cache_bytes`."""
    a_token = 0
    for network in networks:
        config = network.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        a_token += 8 * config.num_hidden_layers * config.num_key_value_heads * width
    return max(1, cache_bytes // (a_token * tokens))


class Reader:
    """A network that reads row by row's next token, with its keys and values of all that came before."""

    def __init__(self, network: PreTrainedModel, prefix: Sequence[int], device: torch.device) -> None:
        self._decoder, self._head, self._device = network.get_submodule("model"), head_weight(network), device
        self._prefix = len(prefix)
        self._shared = DynamicCache(config=network.config)
        if prefix:
            ids = torch.tensor([list(prefix)], device=device)
            self._decoder(input_ids=ids, past_key_values=self._shared, use_cache=True)
        self._cache = self._shared
        self._mask = self._positions = torch.empty(0, dtype=torch.int64, device=device)

    def begin(self, suffixes: Sequence[Sequence[int]], owners: Tensor) -> Tensor:
        """Read U prompts behind the prefix; the next token's logits [B, V] of B rows, each of which has prompt `owners`
        [B].

        Padding is on the left, so that every row's next token is the last.
        """
        width = max(len(suffix) for suffix in suffixes)
        ids = torch.zeros(len(suffixes), width, dtype=torch.int64)
        mask = torch.zeros(len(suffixes), self._prefix + width, dtype=torch.int64)
        mask[:, : self._prefix] = 1
        for place, suffix in enumerate(suffixes):
            ids[place, width - len(suffix) :] = torch.tensor(list(suffix))
            mask[place, self._prefix + width - len(suffix) :] = 1
        self._mask = mask.to(self._device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, self._prefix :]
        self._cache = copy.deepcopy(self._shared)
        self._cache.batch_repeat_interleave(len(suffixes))
        logits = self._logits(ids.to(self._device))
        self.keep(owners)
        return logits[owners]

    def read(self, tokens: Tensor) -> Tensor:
        """The next token's logits [B, V] behind `tokens` [B]."""
        self._positions = self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._logits(tokens.unsqueeze(1))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]

    def _logits(self, ids: Tensor) -> Tensor:
        outputs = self._decoder(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return head_logits(outputs.last_hidden_state[:, -1], self._head)
