"""Answers written in batches are those that a patient loop over rows, without a cache, would write."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudio.catalogue.training import RolloutTable
from kdstudio.distillation import rollouts
from kdstudio.distillation.forward import head_weight
from kdstudio.distillation.rollouts import Answer, draw, generate, nucleus, second_numbers
from kdstudio.errors import BugError, KnownError
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from tests.tiny import tiny_model
from tests.unit.distillation.setting import examples

ENDS = frozenset({0, 2})
TOKENS = 12
Probabilities = npt.NDArray[np.float64]


@functools.cache
def network(seed: int = 0, architecture: str = "llama", context: int = 512) -> PreTrainedModel:
    path = tiny_model(seed=seed, layers=2, architecture=architecture, context=context)
    return assemble(*load_gguf(path), path.name)


@functools.cache
def prompts(count: int = 8) -> list[list[int]]:
    """Chat prompts of several lengths that share a system prompt."""
    return [example.prompt_ids.tolist() for example in examples(count)]


def numbers(count: int, seed: int = 0, tokens: int = TOKENS) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, tokens), dtype=np.float32))


def table(**values: Any) -> RolloutTable:
    return RolloutTable(**{"max_tokens": TOKENS, **values})


def answers(
    asked: Sequence[Sequence[int]],
    options: RolloutTable,
    random: Tensor,
    *,
    student: PreTrainedModel | None = None,
    teacher: PreTrainedModel | None = None,
    ends: frozenset[int] = ENDS,
) -> list[Answer]:
    cpu, plain = torch.device("cpu"), contextlib.nullcontext
    return generate(student or network(), asked, options, random, ends, cpu, precision=plain, teacher=teacher)


# ------------------------------------------------------------------------------------------- the patient reference
def probabilities(model: PreTrainedModel, ids: list[int], temperature: float) -> Probabilities:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double().numpy() / temperature
    weights: Probabilities = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights


def token_at(weights: Probabilities, number: float) -> int:
    return int(np.searchsorted(np.cumsum(weights / weights.sum()), number, side="right"))


def without_tail(weights: Probabilities, top_p: float) -> Probabilities:
    order = np.argsort(-weights)
    before = np.cumsum(weights[order]) - weights[order]
    return np.where(np.isin(np.arange(len(weights)), order[before < top_p]), weights, 0.0)


def murmur(number: float) -> float:
    """MurmurHash3's 32-bit finaliser on plain integers."""
    bits = int(number * 2**32)
    bits = (bits ^ (bits >> 16)) * 0x85EBCA6B % 2**32
    bits = (bits ^ (bits >> 13)) * 0xC2B2AE35 % 2**32
    return ((bits ^ (bits >> 16)) >> 8) / 2**24


def patient(
    prompt: Sequence[int], options: RolloutTable, row: Tensor, teacher: PreTrainedModel, student: PreTrainedModel
) -> Answer:
    written: list[int] = []
    for number in row.tolist()[: options.max_tokens]:
        own = probabilities(student, [*prompt, *written], options.temperature)
        theirs = probabilities(teacher, [*prompt, *written], options.temperature)
        if options.source == "teacher_mixed":
            own = options.teacher_share * theirs + (1 - options.teacher_share) * own
        token = token_at(without_tail(own, options.top_p), number)
        if options.source == "interleaved" and int((theirs > theirs[token]).sum()) >= options.keep_top:
            token = token_at(theirs, murmur(number))
        written.append(token)
        if token in ENDS:
            return Answer(written, True)
    return Answer(written, False)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "options",
    [
        table(),
        table(temperature=0.6, top_p=0.8),
        table(source="teacher_mixed", teacher_share=0.3, top_p=0.9),
        table(source="interleaved", keep_top=3, temperature=1.5),
    ],
    ids=lambda options: options.source,
)
def test_answers_are_those_of_a_loop_over_rows_without_a_cache(options: RolloutTable, architecture: str) -> None:
    student, teacher = network(0, architecture), network(1, architecture)
    asked, random = prompts(), numbers(8, seed=5)
    expected = [patient(prompt, options, row, teacher, student) for prompt, row in zip(asked, random, strict=True)]
    given = None if options.source == "student" else teacher
    assert answers(asked, options, random, student=student, teacher=given) == expected
    assert len({len(answer.ids) for answer in expected}) > 1  # rows end at different times


# --------------------------------------------------------------------------------------- who shares the batch
@pytest.mark.parametrize("source", ["student", "teacher_mixed", "interleaved"])
def test_an_answer_is_the_same_alone_and_in_company(source: str) -> None:
    options, random, teacher = table(source=source), numbers(8), network(1)
    together = answers(prompts(), options, random, teacher=teacher)
    for place, prompt in enumerate(prompts()):
        alone = answers([prompt], options, random[place : place + 1], teacher=teacher)
        assert alone == [together[place]], place


def test_prompts_that_share_nothing_and_differ_in_length_do_not_meet() -> None:
    asked = [[5 + place, *range(40, 45 + 7 * place)] for place in range(5)]
    random = numbers(5, seed=1)
    together = answers(asked, table(), random)
    assert together == [patient(asked[place], table(), random[place], network(1), network()) for place in range(5)]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_how_many_rows_run_at_once_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(prompts(), table(), numbers(8))
    monkeypatch.setattr(rollouts, "ROWS_AT_ONCE", rows)
    assert answers(prompts(), table(), numbers(8)) == expected


def test_fewer_rows_run_at_once_where_their_keys_and_values_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    a_token = 2 * 4 * 2 * 2 * 16  # keys and values in float32, 2 layers, 2 heads of 16 numbers
    monkeypatch.setattr(rollouts, "CACHE_BYTES", 5 * a_token * (max(map(len, prompts())) + TOKENS))
    with rows_read(network()) as read:
        answers(prompts(), table(), numbers(8))
    assert max(read) == 5


@contextlib.contextmanager
def rows_read(model: PreTrainedModel) -> Any:
    """How many rows each forward pass of the decoder had."""
    seen: list[int] = []

    def note(_module: nn.Module, _positional: Any, named: dict[str, Any]) -> None:
        seen.append(named["input_ids"].shape[0])

    handle = model.get_submodule("model").register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def test_a_prompt_asked_again_is_read_once_and_ended_rows_leave() -> None:
    asked = [prompt for prompt in prompts(4) for _ in range(4)]
    random = numbers(16, seed=2)
    with rows_read(network()) as read:
        made = answers(asked, table(), random)
    assert read[:2] == [1, 4]  # what all begin with, then the four prompts
    assert read[2] <= 16
    running = [sum(len(answer.ids) > place + 1 for answer in made) for place in range(TOKENS - 1)]
    for rows, left in zip(read[2:], running, strict=False):
        assert left <= rows < 2 * left
    assert len(read) == 1 + max(len(answer.ids) for answer in made)
    expected = [patient(prompt, table(), row, network(1), network()) for prompt, row in zip(asked, random, strict=True)]
    assert made == expected


# ------------------------------------------------------------------------------------------------ where it ends
def test_an_answer_may_be_empty() -> None:
    made = answers(prompts(3), table(), numbers(3), ends=frozenset(range(400)))
    assert all(len(answer.ids) == 1 and answer.finished for answer in made)


def test_an_answer_that_is_cut_off_says_so() -> None:
    made = answers(prompts(3), table(max_tokens=4), numbers(3), ends=frozenset())
    assert [(len(answer.ids), answer.finished) for answer in made] == [(4, False)] * 3


def test_the_models_context_bounds_an_answer() -> None:
    asked = sorted(prompts(6), key=len)
    longest, shortest = len(asked[-1]), len(asked[0])
    tight = network(context=longest + 2)
    made = answers(asked, table(max_tokens=8), numbers(6), student=tight, ends=frozenset())
    assert len(made[-1].ids) == 2
    assert len(made[0].ids) == min(8, longest + 2 - shortest)
    with pytest.raises(KnownError, match="no room") as caught:
        answers(asked, table(), numbers(6), student=network(context=longest))
    assert f"{longest:,} tokens" in caught.value.detail
    with pytest.raises(KnownError, match="no room"):
        answers(asked, table(source="interleaved"), numbers(6), teacher=network(1, context=longest))


def test_no_prompts_give_no_answers() -> None:
    assert answers([], table(), numbers(0)) == []


# ---------------------------------------------------------------------------------------------- the teacher's part
def test_a_share_of_one_is_the_teacher_and_of_none_the_student() -> None:
    asked, random, teacher = prompts(), numbers(8), network(1)
    alone = [answers(asked, table(), random, student=item) for item in (network(), teacher)]
    mixed = [
        answers(asked, table(source="teacher_mixed", teacher_share=share), random, teacher=teacher) for share in (0, 1)
    ]
    assert mixed == alone
    assert alone[0] != alone[1]


@pytest.mark.parametrize("source", ["teacher_mixed", "interleaved"])
def test_a_teacher_is_required(source: str) -> None:
    with pytest.raises(KnownError, match="need the teacher") as caught:
        answers(prompts(2), table(source=source), numbers(2))
    assert source in caught.value.detail


@pytest.mark.parametrize("source", ["teacher_mixed", "interleaved"])
def test_a_head_with_padding_behind_its_vocabulary_changes_nothing(source: str) -> None:
    config, state = load_gguf(tiny_model(seed=1, layers=2))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], torch.full((16, state[name].shape[1]), 9.0)])
    wide = assemble({**config, "vocab_size": len(state["lm_head.weight"])}, state, "wide")
    made = [answers(prompts(), table(source=source), numbers(8), teacher=item) for item in (network(1), wide)]
    assert made[0] == made[1]


# ------------------------------------------------------------------------------------------- what is left behind
@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_inside_and_the_mode_comes_back(training: bool) -> None:
    model = assemble(*load_gguf(tiny_model(layers=2)), "tiny")
    model.config.attention_dropout = 0.5
    for layer in model.get_submodule("model.layers").children():
        layer.get_submodule("self_attn").attention_dropout = 0.5  # type: ignore[assignment]
    model.train(training)
    assert answers(prompts(), table(), numbers(8), student=model) == answers(prompts(), table(), numbers(8))
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_logits_that_are_no_numbers_are_named_and_the_mode_comes_back() -> None:
    model = assemble(*load_gguf(tiny_model(layers=2)), "tiny")
    with torch.no_grad():
        head_weight(model)[7] = torch.nan
    model.train()
    for top_p in (1.0, 0.5):
        with pytest.raises(KnownError, match="no longer numbers"):
            answers(prompts(2), table(top_p=top_p), numbers(2), student=model)
        assert model.training


def test_numbers_of_another_shape_are_our_fault() -> None:
    for random in (numbers(3), numbers(2, tokens=TOKENS - 1), numbers(2)[0]):
        with pytest.raises(BugError, match="2 prompts"):
            answers(prompts(2), table(), random)
    with pytest.raises(BugError, match="with tokens in each"):
        answers([[5], []], table(), numbers(2))


def test_bf16_writes_with_the_same_shapes() -> None:
    def precision() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    cpu = torch.device("cpu")
    made = generate(network(), prompts(4), table(), numbers(4), ENDS, cpu, precision=precision)
    assert all(1 <= len(answer.ids) <= TOKENS for answer in made)


# ------------------------------------------------------------------------------------------------------ the draws
def test_evenly_spread_numbers_give_each_token_its_share() -> None:
    weights = torch.tensor([[0.1, 0.0, 0.5, 0.4]]).expand(1000, -1)
    drawn = draw(weights, (torch.arange(1000) + 0.5) / 1000)
    assert torch.bincount(drawn, minlength=4).tolist() == [100, 0, 500, 400]


def test_the_edges_of_chance_stay_inside_the_vocabulary() -> None:
    weights = torch.tensor([[0.0, 0.3, 0.7, 0.0], [0.2, 0.0, 0.0, 0.0]]).repeat(2, 1)
    numbers_at_edges = torch.tensor([0.0, 0.0, 1.0, 1.0])  # 1 is what float32 makes of 1 - 1e-9
    assert draw(weights, numbers_at_edges).tolist() == [1, 0, 2, 0]


def test_the_nucleus_is_the_smallest_set_that_holds_top_p() -> None:
    weights = torch.tensor([[0.25, 0.5, 0.125, 0.125], [0.1, 0.7, 0.2, 0.0]])
    assert nucleus(weights, 0.6).tolist() == [[0.25, 0.5, 0, 0], [0, pytest.approx(0.7), 0, 0]]
    assert nucleus(weights, 0.75)[0].tolist() == [0.25, 0.5, 0, 0]
    assert nucleus(weights, 0.8)[0].tolist() == [0.25, 0.5, 0.125, 0.125]  # equals stay together
    assert nucleus(weights, 1e-9)[0].tolist() == [0, 0.5, 0, 0]
    assert nucleus(weights, 1.0) is weights


def test_second_numbers_are_spread_evenly_even_over_a_narrow_range_of_first_ones() -> None:
    for first in (torch.rand(4096, generator=torch.Generator().manual_seed(0)), 0.37 + torch.arange(4096) / 2**24):
        second = second_numbers(first)
        assert 0 <= float(second.min()) <= float(second.max()) < 1
        counts = torch.histc(second, 16, min=0, max=1)
        assert float(((counts - 256) ** 2 / 256).sum()) < 37.7  # chi squared, 15 degrees of freedom, one in a thousand
        assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05
    assert second_numbers(first).tolist() == [murmur(number) for number in first.tolist()]
