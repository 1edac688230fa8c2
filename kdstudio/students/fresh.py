"""A fresh student: the teacher's shape at another size, with random weights drawn from the run's seed."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from kdstudio.errors import BadInput
from kdstudio.networks.lean import keep_little
from kdstudio.networks.network import NETWORKS, Config, new_config

_WIDTH_MULTIPLE = 32  # every GGUF block format needs rows of whole blocks of 32


def fresh_config(teacher: Config, layer_count: int, hidden_size: int) -> Config:
    """The teacher's config with `layer_count` layers and width `hidden_size` (0 keeps the teacher's).

    Heads keep their size, the feed-forward width its ratio. Raises `BadInput` for a width that holds no whole heads.
    """
    hidden = hidden_size or teacher["hidden_size"]
    head = teacher.get("head_dim") or teacher["hidden_size"] // teacher["num_attention_heads"]
    heads = hidden // head
    if hidden % _WIDTH_MULTIPLE or hidden % head or heads == 0:
        step = max(head, _WIDTH_MULTIPLE)
        raise BadInput(
            "This width cannot be built",
            f"A width of {hidden} does not divide into heads of {head} dimensions and blocks of {_WIDTH_MULTIPLE}.",
            f"Choose a multiple of {step}, for example {max(1, round(hidden / step)) * step}.",
        )
    ratio = teacher["intermediate_size"] / teacher["hidden_size"]
    feed_forward = max(1, round(ratio * hidden / _WIDTH_MULTIPLE)) * _WIDTH_MULTIPLE
    queries = teacher["num_attention_heads"]
    groups = max(1, queries // teacher.get("num_key_value_heads", queries))
    shape = {
        "num_hidden_layers": layer_count or teacher["num_hidden_layers"],
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // groups if heads % groups == 0 else heads,
        "head_dim": head,
    }
    return {**teacher, **shape}


def fresh_network(config: Config, seed: int) -> PreTrainedModel:
    """A network of `config` with random weights, the same for the same seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[config["model_type"]][1](new_config(config))
    network.train(False)
    keep_little(network)
    return network
