"""What a network computes on its way: hidden states of some layers, and the last layer's queries, keys and values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass
class InnerStates:
    """`hidden`: by layer (from 1), [N, H] at the tokens that predict the response. `relations`: "query", "key", "value"
    of the last layer [B, heads, L, d], before rotation; `mask` [B, L] what is not padding.
    """

    hidden: dict[int, Tensor] = field(default_factory=dict)
    relations: dict[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None

    def leaves(self) -> InnerStates:
        """The same numbers cut off from their graph, ready to gather gradients."""
        return InnerStates(
            {layer: state.detach().requires_grad_() for layer, state in self.hidden.items()},
            {name: state.detach().requires_grad_() for name, state in self.relations.items()},
            self.mask,
        )

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        return [*self.hidden.values(), *self.relations.values()]


@dataclass
class Watch:
    """What to keep of a forward pass: outputs of `layers` (from 1; negative from the end), and whether `relations`."""

    layers: tuple[int, ...] = ()
    relations: bool = False

    def __bool__(self) -> bool:
        return bool(self.layers) or self.relations


def watched_layers(chosen: Sequence[int], total: int) -> tuple[int, ...]:
    """Layers from 1 as they were chosen; four spread evenly, the last among them, where none was."""
    if chosen:
        return tuple(layer if layer > 0 else total + 1 + layer for layer in chosen)
    count = min(4, total)
    return tuple(sorted({round((place + 1) * total / count) for place in range(count)}))


def same_depth(layers: Sequence[int], total: int, other_total: int) -> tuple[int, ...]:
    """The layers of a network of `other_total` at the same relative depth as `layers` of `total`."""
    return tuple(max(1, round(layer * other_total / total)) for layer in layers)


@contextlib.contextmanager
def watching(network: PreTrainedModel, watch: Watch, where: Tensor) -> Iterator[InnerStates]:
    """Keep states of the one forward pass inside the block; `where` [N] are places in the flattened [B * L]."""
    kept, handles = InnerStates(), []
    layers = list(network.get_submodule("model.layers").children())

    def keep_output(number: int) -> object:
        def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            kept.hidden[number] = output[0] if isinstance(output, tuple) else output

        return layers[number - 1].register_forward_hook(hook)

    def keep_projection(name: str, letter: str) -> object:
        width = (
            getattr(network.config, "head_dim", None)
            or network.config.hidden_size // network.config.num_attention_heads
        )

        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            batch, length, _size = output.shape
            kept.relations[name] = output.view(batch, length, -1, width).transpose(1, 2)

        return layers[-1].get_submodule(f"self_attn.{letter}_proj").register_forward_hook(hook)

    handles += [keep_output(number) for number in watch.layers]
    if watch.relations:
        handles += [keep_projection(name, name[0]) for name in ("query", "key", "value")]
    try:
        yield kept
        # Only now: a shared prefix goes through the layers first, and what it left here was overwritten by the rows
        kept.hidden = {layer: state.flatten(0, 1).index_select(0, where) for layer, state in kept.hidden.items()}
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]


def padding_mask(lengths: Sequence[int], width: int, device: torch.device) -> Tensor:
    """[B, L] True where a token stands."""
    places = torch.arange(width, device=device)
    return places.unsqueeze(0) < torch.tensor(list(lengths), device=device).unsqueeze(1)
