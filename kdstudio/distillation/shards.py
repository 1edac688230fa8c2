"""Weights cut over all processes (FSDP2): of every block each keeps a share of weights, gradients and moments.

A block is whole only while it computes. Embedding and head stay whole in every process: the embedding's gradient goes
to single rows of it, and the head's kernel walks its matrix by chunks of tokens. Zhao et al. 2023,
https://arxiv.org/abs/2304.11277; accelerate's plugin says how, torch's `fully_shard` does it. On a GPU and on a CPU it
is the same way: accelerate's own preparation knows GPUs only, and would cut embedding and head too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from accelerate import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from kdstudio.catalogue.objectives import Signal
from kdstudio.distillation.objectives import needed_signals
from kdstudio.errors import BadInput
from kdstudio.recipe import TrainingRecipe

_WHOLE = ("model.embed_tokens", "lm_head")


def require_shardable(recipe: TrainingRecipe) -> None:
    """Raises `BadInput` for what FSDP2 cannot cut up, before anything is loaded."""
    if recipe.run.sharding == "none":
        return
    if recipe.student.adapter == "qlora":
        raise BadInput(
            "4-bit weights cannot be sharded",
            'student.adapter = "qlora" keeps packed bytes, which have no gradient to be shared out.',
            'Set run.sharding = "none", or student.adapter = "lora".',
        )
    if Signal.ATTENTION in needed_signals(recipe.objective):
        raise BadInput(
            "Attention relations cannot be learnt from sharded weights",
            "They pass gradients into the middle of a block, which is whole only while it computes from end to end.",
            'Set run.sharding = "none", or choose hidden states instead.',
        )


def shard(network: PreTrainedModel, device: torch.device, processes: int) -> None:
    """Cut the blocks of `network`, which is on `device` and the same in all `processes`, in place. All take part."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True, cpu_offload=False)
    whole = {item for name in _WHOLE for item in network.get_submodule(name).parameters()}
    mesh = init_device_mesh(device.type, (processes,))
    decoder = network.get_submodule("model")
    for module in (*decoder.get_submodule("layers").children(), decoder):
        made = fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=bool(plugin.reshard_after_forward),
            mp_policy=MixedPrecisionPolicy(),  # autocast rounds, as it does in one process
            ignored_params=whole,
        )
        # A loss is divided by the whole step's counts, so gradients are added up and not averaged
        made.set_gradient_divide_factor(1.0)
        made.set_force_sum_reduction_for_comms(True)  # gloo can do nothing else


def unshard(network: PreTrainedModel, *, kept: bool) -> None:
    """Plain, whole parameters again, on the CPU, where they are `kept`; the network runs no more. All take part."""
    for name, item in list(network.named_parameters()):
        if isinstance(item, DTensor):
            found = whole(item).cpu()
            owner, _, last = name.rpartition(".")
            if kept:
                setattr(network.get_submodule(owner), last, nn.Parameter(found, requires_grad=item.requires_grad))


def is_sharded(network: PreTrainedModel) -> bool:
    """Whether `shard` was called."""
    return isinstance(network.get_submodule("model"), FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The tensor, put together from all processes where it is cut. All take part."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def gathered(tensors: Mapping[str, Tensor], *, kept: bool) -> dict[str, Tensor]:
    """All of them whole and contiguous, in their order; nothing where they are not `kept`. All take part."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = whole(tensor)
        if kept:
            made[name] = found.contiguous()
    return made


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole `tensor`, the same in all processes, on the device of `like` and cut as it is. All take part."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)


def clip_gradients(parameters: Iterable[Tensor], most: float) -> float:
    """Scale whole and cut gradients together down to the norm `most`; returns the norm they had. All take part."""
    gradients = [item.grad for item in parameters if item.grad is not None]
    cut = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    others = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [float(whole(nn.utils.get_total_norm(part))) for part in (cut, others) if part]
    norm = math.hypot(*norms)
    scale = most / (norm + 1e-6)
    if scale < 1:
        for gradient in gradients:
            gradient.mul_(scale)
    return norm
