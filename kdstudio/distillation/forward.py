"""From a batch to the hidden states that predict its response tokens.

Prompt positions never reach the head. What all prompts begin with is computed once for the batch, and every row shares
its keys and values: exact, gradients included, and a quarter less work where the system prompt is a third of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.inner_states import InnerStates, Watch, padding_mask, watching
from kdstudio.networks.heads import head_logits, head_weight, weight_of

__all__ = ["Embedded", "head_logits", "head_weight", "response_hidden", "watched_hidden", "weight_of"]


class Embedded:
    """The input embeddings of a batch, cut off from the table so that their gradients go back to its rows alone.

    Autograd would make a gradient of the whole table, V rows of zeros but for a few hundred, and then add it up.
    """

    def __init__(self, network: PreTrainedModel, batch: Batch, prefix: Tensor) -> None:
        self._table = weight_of(network, "model.embed_tokens")
        self._ids = torch.cat([prefix, batch.input_ids.flatten()])
        self._shared = len(prefix)
        self._shape = (*batch.input_ids.shape, self._table.shape[1])
        wanted = self._table.requires_grad and torch.is_grad_enabled()
        self._leaf = self._table.detach()[self._ids].requires_grad_(wanted)

    @property
    def prefix(self) -> Tensor:
        """[1, P, H] of the shared prefix."""
        return self._leaf[: self._shared].unsqueeze(0)

    @property
    def rows(self) -> Tensor:
        """[B, L, H] of the rows."""
        return self._leaf[self._shared :].view(self._shape)

    def backward(self) -> None:
        """After the backward pass: add what arrived to the gradient of the table."""
        if self._leaf.grad is None:
            return
        if self._table.grad is None:
            self._table.grad = torch.zeros_like(self._table)
        self._table.grad.index_add_(0, self._ids, self._leaf.grad)


def watched_hidden(
    network: PreTrainedModel, batch: Batch, embedded: Embedded, watch: Watch
) -> tuple[Tensor, InnerStates | None]:
    """As `response_hidden`, with the inner states that are watched. Relations need whole rows: no shared prefix."""
    if not watch:
        return response_hidden(network, batch, embedded), None
    with watching(network, watch, batch.where) as kept:
        hidden = response_hidden(network, batch, embedded)
    shared = embedded.prefix.shape[1]
    lengths = [example.tokens - 1 - shared for example in batch.examples]
    kept.mask = padding_mask(lengths, batch.input_ids.shape[1], hidden.device)
    return hidden, kept


def response_hidden(network: PreTrainedModel, batch: Batch, embedded: Embedded) -> Tensor:
    """[N, H] the last hidden state at each place that predicts a response token.

    Padding stands on the right, so causal attention alone keeps it away from every real token.
    """
    decoder = network.get_submodule("model")
    cache: DynamicCache | None = None
    if embedded.prefix.shape[1]:
        cache = DynamicCache(config=network.config)
        decoder(inputs_embeds=embedded.prefix, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(batch.input_ids.shape[0])
    outputs = decoder(inputs_embeds=embedded.rows, past_key_values=cache, use_cache=cache is not None)
    hidden: Tensor = outputs.last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.where)
