"""Folders: what is read, and what is refused before anything of it could run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdstudio.catalogue.training import StudentTable
from kdstudio.errors import BadInput
from kdstudio.networks.folder import load_folder
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble, clean_config
from kdstudio.students.build import build
from kdstudio.students.save import open_student, save_student
from tests.tiny import tiny_model
from tests.unit.export.student_folders import random_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tiny_model(layers=2)
    config, state = load_gguf(path)
    save_student(tmp_path / "model", assemble(config, state, path.name), config, path, {"source": "teacher"})
    return tmp_path / "model"


def change(folder: Path, **keys: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


def test_a_saved_student_comes_back_as_it_was(folder: Path) -> None:
    path = tiny_model(layers=2)
    network, tokenizer, config = open_student(folder)
    original = assemble(*load_gguf(path), path.name)
    for (name, mine), (_, other) in zip(network.named_parameters(), original.named_parameters(), strict=True):
        assert torch.equal(mine, other), name
    assert tokenizer.vocabulary_size == config["vocab_size"]
    assert tokenizer.template
    assert tokenizer.encode("the lost robot<|im_end|>", special=True)[-1] == 2
    assert json.loads((folder / "student.json").read_text())["source"] == "teacher"


def test_transformers_reads_the_folder_too(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 9, 200]])
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train(False)
    ours, _, _ = open_student(folder)
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_no_key_of_the_config_can_name_code(folder: Path) -> None:
    change(folder, auto_map={"AutoModel": "evil.Model"}, _attn_implementation="evil/kernel", trust_remote_code=True)
    config, _ = load_folder(folder)
    assert not {"auto_map", "_attn_implementation", "trust_remote_code"} & set(config)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_pickled_weights_are_refused_and_never_opened(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    with pytest.raises(BadInput, match="Pickled weights are refused"):
        load_folder(folder)
    assert not (tmp_path / "exploded").exists()


def test_pickles_beside_safetensors_are_left_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    load_folder(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.gguf"])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BadInput):
        open_student(folder)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"<html>", b"\xff" * 4096])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_part_is_refused(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(BadInput):
        load_folder(folder)


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "gemma"},
        {"model_type": None},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"vocab_size": "many"},
        {"hidden_size": True},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"quantization_config": {"bits": 4}},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": -1}},
    ],
)
def test_configs_that_make_no_sense_are_refused(folder: Path, keys: dict[str, object]) -> None:
    change(folder, **keys)
    with pytest.raises(BadInput):
        load_folder(folder)


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    norm = state.pop("model.norm.weight")
    for extra in ({}, {"model.norm.weight": norm[:-1].clone()}, {"model.norm.weight": norm, "x": norm.clone()}):
        save_file({**state, **extra}, folder / "model.safetensors")
        with pytest.raises(BadInput, match="do not fit"):
            open_student(folder)


def test_integer_weights_are_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = torch.ones(64, dtype=torch.int8)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BadInput, match="Quantized weights"):
        load_folder(folder)


def test_shards_are_read_and_an_index_cannot_point_elsewhere(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    save_file({name: state[name] for name in names[:3]}, folder / "one.safetensors")
    save_file({name: state[name] for name in names[3:]}, folder / "two.safetensors")
    places = {name: "one.safetensors" if place < 3 else "two.safetensors" for place, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    _, read = load_folder(folder)
    assert set(read) == set(names)
    for wrong in ("../one.safetensors", "/etc/passwd", "gone.safetensors", "one.bin"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**places, names[0]: wrong}}))
        with pytest.raises(BadInput):
            load_folder(folder)


def test_what_could_never_be_exported_is_refused_before_training(tmp_path: Path) -> None:
    random_folder(tmp_path / "model", "llama")
    path = tmp_path / "model" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(BadInput, match="cannot become a student") as caught:
        build(StudentTable(source="folder", path=str(tmp_path / "model")), None, seed=0)
    assert "pre-tokenizer" in caught.value.detail


def test_known_keys_survive() -> None:
    raw = {
        "model_type": "qwen3",
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "eos_token_id": [1, 2],
        "bos_token_id": None,
    }
    config = clean_config(raw, "x")
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}
    assert config["eos_token_id"] == [1, 2]
    assert "bos_token_id" not in config
    assert config["head_dim"] == 32
