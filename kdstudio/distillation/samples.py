"""Short greedy answers of the student while it learns, so that a person sees what the curves mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kdstudio.distillation.examples import Example
from kdstudio.distillation.forward import head_logits, head_weight
from kdstudio.models.conversation import Tokenizer

SAMPLES = 2
MAXIMUM_TOKENS = 40


@torch.no_grad()
def greedy_answers(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], end_ids: frozenset[int], device: torch.device
) -> list[list[int]]:
    """The likeliest continuation of each prompt, token by token, without the end of turn; all prompts in one batch."""
    was_training = network.training
    network.train(False)
    decoder, head = network.get_submodule("model"), head_weight(network)
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):  # padded on the left, so that every row's next token is the last
        ids[place, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[place, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=network.config)
    answers: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for _ in range(MAXIMUM_TOKENS):
        outputs = decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        chosen: Tensor = head_logits(outputs.last_hidden_state[:, -1], head).argmax(-1)
        for place, token in enumerate(chosen.tolist()):
            if token in end_ids:
                running.discard(place)
            elif place in running:
                answers[place].append(token)
        if not running:
            break
        ids, positions = chosen.unsqueeze(1), positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
    network.train(was_training)
    return answers


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What the ids say."""
    return b"".join(tokenizer.piece(token) for token in ids).decode("utf-8", "replace").strip()


def sample_examples(examples: Sequence[Example], held_out: range) -> list[Example]:
    """A few held-out examples, spread evenly, one for each prompt."""
    step = max(1, len(held_out) // SAMPLES)
    chosen: dict[int, Example] = {}
    for row in held_out[::step]:
        chosen.setdefault(examples[row].prompt_id, examples[row])
    return list(chosen.values())[:SAMPLES]
