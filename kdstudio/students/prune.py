"""Depth pruning: which of the teacher's layers a student keeps."""

from __future__ import annotations

from collections.abc import Sequence

from kdstudio.errors import BadInput
from kdstudio.networks.network import Config, State

_LAYER = "model.layers."


def choose_layers(total: int, layers: Sequence[int] = (), layer_count: int = 0) -> tuple[int, ...]:
    """Indices of the layers to keep: those given, or `layer_count` spread evenly, or all of `total`.

    An even spread keeps layers 0, 1 and the last: a pruned network suffers most where the first layers or the last are
    gone (Gromov et al. 2024, https://arxiv.org/abs/2403.17887). Raises `BadInput` for layers that do not exist or come
    twice.
    """
    if layers:
        return _given(total, layers)
    if layer_count == 0 or layer_count == total:
        return tuple(range(total))
    if not 0 < layer_count <= total:
        raise BadInput(
            "Too many layers", f"{layer_count} layers were asked for; the teacher has {total}.", f"Keep 1 to {total}."
        )
    if layer_count <= 2:
        return (0, total - 1)[:layer_count]
    free = layer_count - 2  # besides 0 and 1; the last of them is the last layer
    return (0, 1, *(1 + round((total - 2) * place / free) for place in range(1, free + 1)))


def _given(total: int, layers: Sequence[int]) -> tuple[int, ...]:
    wrong = [layer for layer in layers if not 0 <= layer < total]
    if wrong or len(set(layers)) != len(layers):
        found = f"layer {wrong[0]}" if wrong else "the same layer twice"
        raise BadInput(
            "These layers cannot be kept",
            f"The recipe names {found}; the teacher has layers 0 to {total - 1}.",
            "Correct student.layers.",
        )
    return tuple(layers)


def keep_layers(config: Config, state: State, layers: Sequence[int]) -> tuple[Config, State]:
    """A loaded network cut to `layers`, in that order."""
    places = {layer: place for place, layer in enumerate(layers)}
    kept: State = {}
    for name, tensor in state.items():
        if not name.startswith(_LAYER):
            kept[name] = tensor
            continue
        number, _, rest = name.removeprefix(_LAYER).partition(".")
        if int(number) in places:
            kept[f"{_LAYER}{places[int(number)]}.{rest}"] = tensor
    return {**config, "num_hidden_layers": len(layers)}, kept
