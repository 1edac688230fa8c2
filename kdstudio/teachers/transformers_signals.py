"""What a torch network thinks of given text: right-padded batches, the head at response positions only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.errors import KnownError
from kdstudio.networks.heads import head_logits, head_weight
from kdstudio.teachers.signals import SparseSignal

BATCH_TOKENS = 4096
LOGIT_BYTES = 128 << 20  # of logits formed at once
Pair = tuple[Sequence[int], Sequence[int]]
Part = TypeVar("Part")
Labels = npt.NDArray[np.int64]
TensorReduce = Callable[[Tensor, Labels, int, int], Part]
"""(logits [n, V] on the device, labels [n], the row's index, the first of these tokens) -> what is kept of them."""


@dataclass
class TorchScoring:
    """Reads rows in the order of their lengths, so that little of a batch is padding."""

    network: PreTrainedModel
    device: torch.device
    stop: Callable[[], bool]

    def run(self, sequences: Sequence[Pair], reduce: TensorReduce[Part]) -> Iterator[tuple[int, list[Part]]]:
        """Yield (index, its parts in order) as rows are done; a row without a prompt is a `KnownError`."""
        for index, (prompt, response) in enumerate(sequences):
            if not prompt or not response:
                raise KnownError(
                    "A row cannot be scored",
                    f"Row {index} has {len(prompt)} prompt tokens and {len(response)} response tokens.",
                    "Reject rows without a prompt or a response.",
                )
        order = sorted(range(len(sequences)), key=lambda index: -sum(map(len, sequences[index])))
        while order and not self.stop():
            longest = sum(map(len, sequences[order[0]]))
            size = max(1, BATCH_TOKENS // longest)
            rows, order = order[:size], order[size:]
            for index, hidden in zip(rows, self._hidden([sequences[index] for index in rows]), strict=True):
                labels = np.asarray(sequences[index][1], np.int64)
                yield index, self._parts(hidden, labels, index, reduce)

    @torch.no_grad()
    def _hidden(self, pairs: Sequence[Pair]) -> list[Tensor]:
        """[n, H] of each row: the last hidden state in front of each response token.

        Padding stands on the right, so causal attention alone keeps it away from every real token.
        """
        rows = [torch.tensor([*prompt, *response][:-1]) for prompt, response in pairs]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        states: Tensor = self.network.get_submodule("model")(input_ids=ids, use_cache=False).last_hidden_state
        firsts = [len(prompt) - 1 for prompt, _ in pairs]
        return [state[first : len(row)] for state, row, first in zip(states, rows, firsts, strict=True)]

    @torch.no_grad()
    def _parts(self, hidden: Tensor, labels: Labels, index: int, reduce: TensorReduce[Part]) -> list[Part]:
        head = head_weight(self.network)
        size = max(1, LOGIT_BYTES // (4 * head.shape[0]))
        blocks = range(0, len(labels), size)
        return [reduce(head_logits(hidden[at : at + size], head), labels[at : at + size], index, at) for at in blocks]


def tensor_signal(logits: Tensor, labels: Labels, top_k: int) -> SparseSignal:
    """The teacher signal of [N, V] logits at [N] label ids, made where they are: `llama_logits.signal_of` for a GPU.

    Log-probs are normalised over the whole vocabulary; the tail is summed, not subtracted. Raises `KnownError` when the
    logits are not numbers.
    """
    if not bool(logits.isfinite().all()):
        raise KnownError(
            "The teacher computed no numbers", "Its logits are not finite.", "Try another file of the same model."
        )
    log_probs = logits.log_softmax(dim=-1)
    values, ids = log_probs.topk(min(top_k, logits.shape[1]), dim=-1)
    label = log_probs.gather(1, torch.from_numpy(labels).to(logits.device).unsqueeze(1)).squeeze(1)
    tail = log_probs.scatter(1, ids, -torch.inf).logsumexp(dim=-1)
    return SparseSignal(
        ids.cpu().numpy().astype(np.uint32), values.cpu().numpy(), tail.cpu().numpy(), label.cpu().numpy()
    )
