"""Width pruning: a student with fewer channels, feed-forward neurons and heads than its teacher, the busiest of each.

Minitron: Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679, section 2.2: importance is told from activations
on a few rows alone, without gradients. A neuron's is the size of its output, a head's the norm of what it adds, a
channel's the size of what the norms pass on; each is a mean over a row's tokens and an L2 norm over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudio.catalogue.training import StudentTable
from kdstudio.errors import BadInput
from kdstudio.networks.network import Config, State

ROWS = 64
Hook = Callable[[nn.Module, tuple[Tensor, ...]], None]
_BLOCK = 32  # every GGUF block format needs rows of whole blocks of 32
_NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True)
class Width:
    """How many channels, feed-forward neurons and query heads are kept; `group` query heads share keys and values."""

    hidden: int
    feed_forward: int
    heads: int
    group: int
    head_size: int


@dataclass
class Kept:
    """What is kept: `channels` of the residual stream, and of each layer its `neurons` and its `groups` of heads."""

    channels: list[int]
    neurons: list[list[int]] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)


def wanted_width(table: StudentTable, config: Config) -> Width | None:
    """The width that a recipe asks of a student cut from a model of `config`; None where it leaves it as it is.

    Raises `BadInput` for sizes that are larger than the model's, or that no GGUF file holds.
    """
    asked = (table.kept_width, table.kept_feed_forward, table.kept_heads)
    if not any(asked):
        return None
    if table.source == "fresh":
        raise BadInput(
            "There is nothing to prune",
            "A fresh student has no weights of which the busiest could be kept.",
            'Use student.hidden_size, or student.source = "teacher".',
        )
    queries = int(config["num_attention_heads"])
    group = max(1, queries // int(config.get("num_key_value_heads") or queries))
    head = int(config.get("head_dim") or config["hidden_size"] // queries)
    whole = (int(config["hidden_size"]), int(config["intermediate_size"]), queries)
    names = ("kept_width", "kept_feed_forward", "kept_heads")
    for name, number, total, step in zip(names, asked, whole, (_BLOCK, _BLOCK, group), strict=True):
        if number > total or number % step:
            raise BadInput(
                "This width cannot be kept",
                f"student.{name} is {number:,}; the model has {total:,}, in steps of {step}.",
                f"Choose a multiple of {step} up to {total // step * step:,}.",
            )
    if table.refit and table.kept_width not in (0, whole[0]):
        raise BadInput(
            "These layers cannot be refitted",
            "A refit compares the residual streams of student and teacher, which need the same width.",
            "Set student.kept_width = 0, or student.refit = false.",
        )
    hidden, feed_forward, heads = (number or total for number, total in zip(asked, whole, strict=True))
    if config["model_type"] == "llama" and hidden % heads:
        raise BadInput(
            "This width cannot be kept",
            f"A Llama model's width is a multiple of its heads, and {hidden:,} is none of {heads}.",
            f"Keep a multiple of {math.lcm(_BLOCK, heads)} channels, or another number of heads.",
        )
    return Width(hidden, feed_forward, heads, group, head)


class _Sizes:
    """How busy what passes one place is: `seen` [width] is the sum over rows of the squared means."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    def add(self, sizes: Tensor) -> None:
        """Sizes >= 0 [1, L, width] of a row, but for its first token: that gathers attention, and dwarfs all others."""
        found = sizes[0, 1:].double().mean(0).square().cpu()
        self.seen = found if self.seen is None else self.seen + found

    def busiest(self, count: int) -> list[int]:
        """The places of the `count` largest, in rising order; of equals the first."""
        if self.seen is None:
            return list(range(count))
        order = torch.sort(self.seen, descending=True, stable=True).indices[:count]
        return sorted(order.tolist())


@torch.no_grad()
def busiest(network: PreTrainedModel, layers: Sequence[int], rows: Sequence[Sequence[int]], width: Width) -> Kept:
    """Run token `rows` through the whole `network`, and choose what its `layers` keep."""
    blocks = list(network.get_submodule("model.layers").children())
    channels, neurons, groups = _Sizes(), [_Sizes() for _ in layers], [_Sizes() for _ in layers]

    def of_norm(_: nn.Module, __: object, passed: Tensor) -> None:
        channels.add(passed.abs())

    def of_neurons(place: int) -> Hook:
        return lambda _, received: neurons[place].add(received[0].abs())

    def of_groups(place: int) -> Hook:
        def hook(_: nn.Module, received: tuple[Tensor, ...]) -> None:
            heads = received[0].view(*received[0].shape[:2], -1, width.group, width.head_size)
            groups[place].add(heads.norm(dim=-1).sum(-1))

        return hook

    norms = [network.get_submodule("model.norm"), *(blocks[n].get_submodule(name) for n in layers for name in _NORMS)]
    handles = [norm.register_forward_hook(of_norm) for norm in norms]
    for place, layer in enumerate(layers):
        for name, hook in (("mlp.down_proj", of_neurons(place)), ("self_attn.o_proj", of_groups(place))):
            handles.append(blocks[layer].get_submodule(name).register_forward_pre_hook(hook))
    try:
        for row in rows:
            if len(row) > 1:
                network.get_submodule("model")(input_ids=torch.tensor([list(row)], device=network.device))
    finally:
        for handle in handles:
            handle.remove()
    return Kept(
        channels.busiest(width.hidden),
        [one.busiest(width.feed_forward) for one in neurons],
        [one.busiest(width.heads // width.group) for one in groups],
    )


def narrow(config: Config, state: State, kept: Kept, width: Width) -> tuple[Config, State]:
    """Config and weights of a network of `kept.neurons` many layers, cut to what is kept."""
    channels = torch.tensor(kept.channels)
    made: State = {}
    for name, tensor in state.items():
        if not name.startswith("model.layers."):
            made[name] = tensor[..., channels].clone()
            continue
        number, _, rest = name.removeprefix("model.layers.").partition(".")
        made[name] = _cut(rest, tensor, kept, int(number), channels, width)
    sizes = {
        "hidden_size": width.hidden,
        "intermediate_size": width.feed_forward,
        "num_attention_heads": width.heads,
        "num_key_value_heads": width.heads // width.group,
        "head_dim": width.head_size,
    }
    return {**config, **sizes}, made


def _cut(name: str, tensor: Tensor, kept: Kept, layer: int, channels: Tensor, width: Width) -> Tensor:
    """One tensor of a layer."""
    module, kind = name.split(".")[-2:]
    if module in _NORMS:
        return tensor[channels].clone()
    if module in ("q_norm", "k_norm"):
        return tensor.clone()
    neurons, groups = torch.tensor(kept.neurons[layer]), torch.tensor(kept.groups[layer])
    inner = {
        "q_proj": _rows(groups, width.group * width.head_size),
        "k_proj": _rows(groups, width.head_size),
        "v_proj": _rows(groups, width.head_size),
        "o_proj": _rows(groups, width.group * width.head_size),
        "gate_proj": neurons,
        "up_proj": neurons,
        "down_proj": neurons,
    }[module]
    back = module in ("o_proj", "down_proj")  # from inside the block to the residual stream
    if kind == "bias":
        return tensor[channels if back else inner].clone()
    return tensor[channels][:, inner].clone() if back else tensor[inner][:, channels].clone()


def _rows(groups: Tensor, size: int) -> Tensor:
    """The rows of whole groups of `size` rows each."""
    return (groups.unsqueeze(1) * size + torch.arange(size)).flatten()
