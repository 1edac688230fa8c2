"""Answers that the student writes while it trains, many at once, each decided by numbers that the caller gives.

What all prompts begin with is read once, a prompt that is asked several times is read once too, and rows that have
ended leave the batch. With the same numbers a prompt gets the same answer whoever shares its batch, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.catalogue.training import RolloutTable
from kdstudio.distillation.on_policy import interleaved_choice, teacher_mixed_log_probs
from kdstudio.distillation.teacher_signals import Precision
from kdstudio.errors import BugError, KnownError
from kdstudio.networks.reading import Reader, rows_at_once

ROWS_AT_ONCE = 64
CACHE_BYTES = 1 << 30
"""Keys and values held at once, in float32 and of all networks together; where it is less, fewer rows are."""


@dataclass(frozen=True)
class Answer:
    """One sampled answer: `ids` with the end of turn if it was reached; `finished`: whether it ended by itself."""

    ids: list[int]
    finished: bool


@torch.no_grad()
def generate(
    network: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    table: RolloutTable,
    random: Tensor,
    end_ids: frozenset[int],
    device: torch.device,
    *,
    precision: Precision,
    teacher: PreTrainedModel | None = None,
) -> list[Answer]:
    """An answer to each of B prompts, in their order, sampled as `table` says; both networks are on `device`.

    `random` [B, T], T >= table.max_tokens, holds numbers in [0, 1): the token at t is where the cumulated probabilities
    pass number t. Temperature and top-p (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751) shape what is drawn
    from; under "teacher_mixed" that is MiniLLM's mixture (https://arxiv.org/abs/2306.08543, equation 4), both sides at
    this temperature; under "interleaved" the teacher replaces tokens (https://arxiv.org/abs/2410.11325, algorithm 1).
    Raises `KnownError` when a prompt leaves no room for an answer, a teacher is missing, or logits are no numbers.
    """
    networks = _writing(network, teacher, table)
    if not prompts:
        return []
    if not all(prompts) or random.dim() != 2 or len(random) != len(prompts) or random.shape[1] < table.max_tokens:
        raise BugError(f"{len(prompts)} prompts with tokens in each need [B, {table.max_tokens}] random numbers")
    rooms = _rooms(prompts, table.max_tokens, networks)
    prefix = prompts[0][: _shared(prompts)]
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), tuple(prompts[row])))
    size = min(ROWS_AT_ONCE, rows_at_once(networks, len(prompts[order[-1]]) + max(rooms), CACHE_BYTES))
    ends = torch.tensor(sorted(end_ids), dtype=torch.int64, device=device)
    answers: dict[int, Answer] = {}
    with evaluating(networks), precision():
        readers = [Reader(item, prefix, device) for item in networks]
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            draws = _Draws(table, random[rows], device)
            suffixes = [tuple(prompts[row][len(prefix) :]) for row in rows]
            room = torch.tensor([rooms[row] for row in rows], device=device)
            written = _write(readers, suffixes, draws, room, ends).tolist()
            answers |= {row: _answer(ids[: rooms[row]], end_ids) for row, ids in zip(rows, written, strict=True)}
    return [answers[row] for row in range(len(prompts))]


def _write(
    readers: Sequence[Reader], suffixes: Sequence[tuple[int, ...]], draws: _Draws, room: Tensor, ends: Tensor
) -> Tensor:
    """Ids [B, T] of the rows' answers; what stands behind the end of an answer means nothing.

    `room` [B]: how many tokens each may have.
    """
    distinct = {suffix: place for place, suffix in enumerate(dict.fromkeys(suffixes))}
    owners = torch.tensor([distinct[suffix] for suffix in suffixes], device=room.device)
    logits = [reader.begin(list(distinct), owners) for reader in readers]
    longest = int(room.max())
    written = room.new_zeros(len(room), longest)
    rows, ended = torch.arange(len(room), device=room.device), torch.zeros_like(room, dtype=torch.bool)
    for place in range(longest):
        chosen = draws.tokens(logits, rows, place)
        written[rows, place] = chosen
        ended |= torch.isin(chosen, ends) | (room[rows] == place + 1)
        left = len(rows) - int(ended.sum())
        if not left:
            break
        if 2 * left <= len(rows):
            kept = (~ended).nonzero().squeeze(-1)
            rows, chosen, ended = rows[kept], chosen[kept], ended[kept]
            for reader in readers:
                reader.keep(kept)
        logits = [reader.read(chosen) for reader in readers]
    return written


def _answer(ids: list[int], end_ids: frozenset[int]) -> Answer:
    """What was written up to the first end of turn."""
    for place, token in enumerate(ids):
        if token in end_ids:
            return Answer(ids[: place + 1], True)
    return Answer(ids, False)


class _Draws:
    """Which tokens the numbers [B, T] stand for."""

    def __init__(self, table: RolloutTable, random: Tensor, device: torch.device) -> None:
        self._table = table
        self._random = random.to(device, torch.float32)
        self._second = second_numbers(random).to(device)

    def tokens(self, logits: Sequence[Tensor], rows: Tensor, place: int) -> Tensor:
        """[b] the tokens at `place` of the `rows` [b], from the student's logits [b, V] and, after them, the teacher's.

        Of two heads the wider one ends in padding that no text uses.
        """
        table, width = self._table, min(item.shape[1] for item in logits)
        student, *others = (item[:, :width] / table.temperature for item in logits)
        if table.source == "teacher_mixed":
            probabilities = teacher_mixed_log_probs(student, others[0], alpha=table.teacher_share).exp()
        else:
            probabilities = student.softmax(dim=-1)
        chosen = draw(nucleus(probabilities, table.top_p), self._random[rows, place])
        if table.source != "interleaved":
            return chosen
        return interleaved_choice(chosen, others[0], self._second[rows, place], top_k=table.keep_top)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """[B, V] with all but the likeliest tokens that together hold `top_p` at 0; the sum is not made 1 again.

    Holtzman et al. 2020, https://arxiv.org/abs/1904.09751, section 3.1. The likeliest token always stays, and so do all
    that are as likely as the last one kept: which of them a sort puts first is chance.
    """
    if top_p >= 1:
        return probabilities
    if probabilities.device.type == "cpu":  # NumPy sorts numbers without their places, thirty times as fast
        ordered = torch.from_numpy(np.sort(probabilities.numpy(), axis=-1)).flip(-1)
    else:
        ordered = probabilities.sort(dim=-1, descending=True).values
    kept = (ordered.cumsum(dim=-1) - ordered < top_p).sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.where(probabilities >= ordered.gather(-1, kept - 1), probabilities, 0.0)


def draw(weights: Tensor, random: Tensor) -> Tensor:
    """[B] the tokens at which the cumulated `weights` [B, V] >= 0 pass `random` [B] in [0, 1) times their sum.

    In the order of the ids, whatever the weights: a rounding error then moves an edge a little and never swaps two
    tokens. Raises `KnownError` for weights that are no numbers.
    """
    reached = weights.cumsum(dim=-1)
    mass = reached[:, -1:]
    if not bool((mass.isfinite() & (mass > 0)).all()):
        raise KnownError(
            "The student's logits are no longer numbers",
            "No token can be drawn from them.",
            "Lower optimizer.learning_rate, lengthen its warm-up, or clip more; then start again.",
        )
    # Rounding may lift the product to the whole sum, beyond the last token: stay just below.
    target = torch.minimum(random.unsqueeze(-1) * mass, torch.nextafter(mass, torch.zeros_like(mass)))
    return torch.searchsorted(reached, target, right=True).squeeze(-1)


def second_numbers(random: Tensor) -> Tensor:
    """For each number in [0, 1) another one, as good as independent of it: MurmurHash3's finaliser over its bits.

    Where a token was refused, the number that drew it is known to lie in a narrow range: drawing with it again would
    always give the same few tokens.
    """
    bits = (random.cpu().double() * 2**32).long()
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = ((bits ^ (bits >> shift)) * factor) & 0xFFFFFFFF
    return ((bits ^ (bits >> 16)) >> 8).float() / 2**24


def _writing(
    network: PreTrainedModel, teacher: PreTrainedModel | None, table: RolloutTable
) -> tuple[PreTrainedModel, ...]:
    """The networks that take part, the student first."""
    if table.source == "student":
        return (network,)
    if teacher is None:
        raise KnownError(
            "These answers need the teacher's network",
            f'With rollout.source = "{table.source}" it reads along and takes part in each token.',
            'Name a local teacher of the same vocabulary, or set rollout.source = "student".',
        )
    return network, teacher


def _rooms(prompts: Sequence[Sequence[int]], max_tokens: int, networks: Sequence[PreTrainedModel]) -> list[int]:
    """How many tokens each answer may have."""
    limits = [getattr(item.config, "max_position_embeddings", None) for item in networks]
    limit = min((int(found) for found in limits if found), default=None)
    if limit is None:
        return [max_tokens] * len(prompts)
    longest = max(len(prompt) for prompt in prompts)
    if longest >= limit:
        raise KnownError(
            "A prompt leaves no room for an answer",
            f"It has {longest:,} tokens, and the model reads {limit:,} in all.",
            "Set data.maximum_tokens lower, or shorten the prompt.",
        )
    return [min(max_tokens, limit - len(prompt)) for prompt in prompts]


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with alike, short of any prompt's last token."""
    rows = [list(prompt) for prompt in prompts]
    first, last = min(rows), max(rows)  # what these two share, all between them share
    limit = min(len(row) for row in rows) - 1
    return next((place for place in range(limit) if first[place] != last[place]), limit)


@contextmanager
def evaluating(networks: Sequence[PreTrainedModel]) -> Iterator[None]:
    """Without dropout; afterwards the networks that were training go on with it."""
    training = [network.training for network in networks]
    try:
        for network in networks:
            network.train(False)
        yield
    finally:
        for network, before in zip(networks, training, strict=True):
            network.train(before)
