"""The loader against transformers' own reading of the same GGUF file, and against llama.cpp's conventions."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kdstudio.errors import BadInput
from kdstudio.networks.gguf_weights import llama3_factors, load_gguf
from kdstudio.networks.network import assemble
from tests.tiny import tiny_gguf, tiny_model

IDS = torch.tensor([[5, 80, 99, 140, 7, 260, 33], [9, 3, 3, 200, 41, 18, 77]])


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # it cannot read qwen3's width of a head
@pytest.mark.parametrize(("dtype", "tied"), [("F32", False), ("F16", True), ("Q8_0", False), ("Q4_1", True)])
def test_logits_equal_those_of_transformers_own_loader(architecture: str, dtype: str, tied: bool) -> None:
    path = tiny_model(architecture=architecture, dtype=dtype, tied=tied, layers=2)
    config, state = load_gguf(path)
    ours = assemble(config, state, path.name)
    theirs = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).train(
        False
    )
    for (name, mine), (other, reference) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(mine, reference), name
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, theirs(IDS).logits)
    assert ours.config.tie_word_embeddings is tied


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_llama_cpp(architecture: str, tied: bool) -> None:
    path = tiny_model(architecture=architecture, tied=tied, layers=3)
    llama = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    network = assemble(*load_gguf(path), path.name)
    for ids in IDS.tolist():
        llama.reset()  # type: ignore[no-untyped-call]
        llama.eval(ids)
        expected = np.array(llama.scores[: len(ids)])
        with torch.no_grad():
            ours = network(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(ours, expected, atol=0.05)  # llama.cpp keeps keys and values in half precision
    llama.close()


def test_kept_layers_are_the_teachers_in_order() -> None:
    path = tiny_model(layers=4)
    _, whole = load_gguf(path)
    config, cut = load_gguf(path, layers=(0, 3))
    assert config["num_hidden_layers"] == 2
    assert torch.equal(cut["model.layers.1.mlp.up_proj.weight"], whole["model.layers.3.mlp.up_proj.weight"])
    assert not any(name.startswith("model.layers.2.") for name in cut)
    assemble(config, cut, path.name)


def test_weights_can_be_trained_and_do_not_touch_the_file(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf", layers=1)
    before = path.read_bytes()
    network = assemble(*load_gguf(path), path.name)
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    assert path.read_bytes() == before


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf", layers=1)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(BadInput, match="incomplete"):
        load_gguf(path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf", layers=1, architecture="gemma")
    with pytest.raises(BadInput, match="not supported"):
        load_gguf(path)


def test_llama3_frequencies_are_those_transformers_computes() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, head_dim=64, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(plain / llama3_factors(rope, 64), scaled.numpy(), rtol=1e-5)
