"""Our GGUF writer against the tiny GGUF it came from, transformers' reader and llama.cpp."""

from __future__ import annotations

import errno
import json
import resource
import signal
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize

from kdstudio.errors import BadInput, KnownError
from kdstudio.evaluation.gap import measure
from kdstudio.evaluation.logits import LlamaLogits
from kdstudio.evaluation.torch_logits import TorchLogits, load_student
from kdstudio.export.architecture import Shape, rope_factors
from kdstudio.export.check import exportable
from kdstudio.export.gguf import Identity, estimated_bytes, size_label, write_gguf
from kdstudio.models.gguf_header import read_header
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from kdstudio.students.save import save_student
from tests.tiny import tiny_gguf
from tests.unit.export.student_folders import (
    folder_from_tiny,
    load_with_transformers,
    random_folder,
    save_weights,
)

IDENTITY = Identity(
    "Tiny Student",
    license="apache-2.0",
    description="Distilled for a test.",
    base=(("Tiny Test Teacher", "Somebody", "https://example.org/tiny"),),
    extra=(("kdstudio.recipe", "abc"),),
)
PAIRS = [(list(range(3, 20)), list(range(100, 160))), ([1, 50, 60], list(range(200, 320)))]


def tensors_of(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", True)]
)
def test_round_trip_gives_back_every_byte(tmp_path: Path, architecture: str, tied: bool) -> None:
    folder = folder_from_tiny(tmp_path / "student", architecture, tied=tied)
    size = write_gguf(folder, tmp_path / "out.gguf", "F32", IDENTITY)
    before, after = tensors_of(folder / "source.gguf"), tensors_of(tmp_path / "out.gguf")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.data.tobytes() == after[name].data.tobytes(), name
        assert tensor.shape.tolist() == after[name].shape.tolist()
    assert size == (tmp_path / "out.gguf").stat().st_size <= estimated_bytes(folder, "F32")


def test_tokenizer_metadata_is_copied_exactly(tmp_path: Path) -> None:
    folder = folder_from_tiny(tmp_path / "student")
    write_gguf(folder, tmp_path / "out.gguf", "F16", IDENTITY)
    before, after = (gguf.GGUFReader(path).fields for path in (folder / "source.gguf", tmp_path / "out.gguf"))
    keys = [key for key in before if key.startswith("tokenizer.")]
    assert len(keys) >= 9
    for key in keys:
        assert before[key].contents() == after[key].contents(), key
        assert before[key].types == after[key].types, key
    assert after["tokenizer.ggml.eot_token_id"].contents() == 2  # <|im_end|>, which the template ends turns with


def test_general_metadata_says_who_it_is(tmp_path: Path) -> None:
    folder = folder_from_tiny(tmp_path / "student")
    write_gguf(folder, tmp_path / "out.gguf", "BF16", IDENTITY)
    metadata = read_header(tmp_path / "out.gguf").metadata
    assert metadata["general.name"] == "Tiny Student"
    assert metadata["general.license"] == "apache-2.0"
    assert metadata["general.base_model.count"] == 1
    assert metadata["general.base_model.0.name"] == "Tiny Test Teacher"
    assert metadata["general.base_model.0.repo_url"] == "https://example.org/tiny"
    assert metadata["general.file_type"] == int(gguf.LlamaFileType.MOSTLY_BF16)
    assert metadata["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert metadata["general.size_label"].endswith("K")
    assert metadata["kdstudio.recipe"] == "abc"
    assert "general.license.link" not in metadata


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_formats_equal_the_packages_own_rounding(tmp_path: Path, kind: Any) -> None:
    folder = folder_from_tiny(tmp_path / "student", "qwen2")
    write_gguf(folder, tmp_path / "out.gguf", kind, IDENTITY)
    before, after = tensors_of(folder / "source.gguf"), tensors_of(tmp_path / "out.gguf")
    for name, tensor in before.items():
        if len(tensor.shape) == 1:
            assert after[name].tensor_type.name == "F32"
            assert after[name].data.tobytes() == tensor.data.tobytes()
        else:
            assert after[name].tensor_type.name == kind
            expected = gguf.quantize(tensor.data, gguf.GGMLQuantizationType[kind])
            assert after[name].data.tobytes() == expected.tobytes(), name


def test_a_bf16_student_is_copied_exactly_and_widened_exactly(tmp_path: Path) -> None:
    model = random_folder(tmp_path / "student", "llama", torch.bfloat16)
    write_gguf(tmp_path / "student", tmp_path / "bf16.gguf", "BF16", IDENTITY)
    write_gguf(tmp_path / "student", tmp_path / "f32.gguf", "F32", IDENTITY)
    for path in (tmp_path / "bf16.gguf", tmp_path / "f32.gguf"):
        read = load_with_transformers(path).state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(read[name], tensor), name


CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 4.0}}),
    (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 32}),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_llama_cpp_computes_what_torch_computes(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    model = random_folder(tmp_path / "student", kind, **changes)
    write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)
    trained, written = TorchLogits(model), LlamaLogits(tmp_path / "out.gguf", context_tokens=256, threads=1)
    gap = measure(trained, written, PAIRS).result()
    written.close()
    assert gap.positions == 180
    assert gap.forward_kl < 1e-3
    assert gap.top1_agreement >= 0.98


def test_our_own_loader_agrees_with_transformers(tmp_path: Path) -> None:
    model = random_folder(tmp_path / "student", "qwen3")
    ours = load_student(tmp_path / "student").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(ours[name], tensor), name


def test_llama3_factors_follow_transformers() -> None:
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
    config = LlamaConfig(head_dim=64, rope_parameters=rope, hidden_size=2048, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / (500000.0 ** (torch.arange(0, 64, 2).float() / 64))
    factors = rope_factors(Shape.of(config.to_dict()))
    assert factors is not None
    np.testing.assert_allclose((plain / scaled).numpy(), factors, rtol=1e-5)


def test_a_llama3_student_comes_back_through_our_own_loader(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = random_folder(tmp_path / "student", "llama", rope_parameters=rope, max_position_embeddings=131072)
    write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)
    config, state = load_gguf(tmp_path / "out.gguf")
    assert config["rope_parameters"] == rope
    assert config["max_position_embeddings"] == 131072
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert exportable(tmp_path / "out.gguf") is None


@pytest.mark.parametrize("dtype", ["Q4_1", "Q8_0", "F16"])
def test_a_quantized_teacher_comes_back_as_its_own_dequantised_bytes(tmp_path: Path, dtype: str) -> None:
    source = tiny_gguf(tmp_path / "source.gguf", dtype=dtype)
    config, state = load_gguf(source)
    save_student(tmp_path / "student", assemble(config, state, "x"), config, source, {})
    write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)
    before, after = tensors_of(source), tensors_of(tmp_path / "out.gguf")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        exact = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        assert exact.tobytes() == after[name].data.tobytes(), name


def test_padded_embedding_gets_names_for_its_extra_rows(tmp_path: Path) -> None:
    random_folder(tmp_path / "student", "llama", vocab_size=448)
    write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    assert len(tokens) == len(types) == 448
    assert tokens[-1] == "[PAD447]"
    assert types[-1] == int(gguf.TokenType.UNUSED)


def test_more_tokens_than_rows_is_refused(tmp_path: Path) -> None:
    random_folder(tmp_path / "student", "llama", vocab_size=300)
    with pytest.raises(BadInput, match="do not belong together"):
        write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_weight_beyond_f16_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = random_folder(tmp_path / "student", "llama")
    state = model.state_dict()
    state["model.layers.1.mlp.up_proj.weight"][3, 4] = 70000.0
    save_weights(tmp_path / "student", state)
    with pytest.raises(KnownError, match="too large for F16"):
        write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F16", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    write_gguf(tmp_path / "student", tmp_path / "out.gguf", "BF16", IDENTITY)


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    model = random_folder(tmp_path / "student", "llama")
    state = model.state_dict()
    gone = state.pop("model.layers.1.self_attn.k_proj.weight")
    save_weights(tmp_path / "student", state)
    with pytest.raises(BadInput, match=r"blk\.1\.attn_k\.weight"):
        write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)
    state |= {"model.layers.1.self_attn.k_proj.weight": gone, "model.layers.0.lora_A.weight": gone.clone()}
    save_weights(tmp_path / "student", state)
    with pytest.raises(BadInput, match="lora_A"):
        write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)


def test_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    folder = folder_from_tiny(tmp_path / "student")
    (tmp_path / "kept").mkdir()
    out = tmp_path / "kept" / "out.gguf"
    out.write_bytes(b"the earlier version")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(KnownError, match="too large for this disk"):
            write_gguf(folder, out, "F32", IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert out.read_bytes() == b"the earlier version"
    assert [path.name for path in out.parent.iterdir()] == ["out.gguf"]


def test_disk_full_error_reaches_the_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kdstudio.export.gguf as writer

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = folder_from_tiny(tmp_path / "student")
    monkeypatch.setattr(writer, "_write", full)
    with pytest.raises(KnownError, match="disk is full"):
        write_gguf(folder, tmp_path / "out.gguf", "F32", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "architecture is 'gpt2'"),
        ({"hidden_act": "gelu"}, "activation is 'gelu'"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rotary scaling is 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "only part of each head"),
    ],
)
def test_what_cannot_be_expressed_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    random_folder(tmp_path / "student", "llama")
    path = tmp_path / "student" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput, match=words):
        write_gguf(tmp_path / "student", tmp_path / "out.gguf", "F32", IDENTITY)


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    folder = folder_from_tiny(tmp_path / "student")
    seen: list[tuple[int, int]] = []
    write_gguf(folder, tmp_path / "out.gguf", "F16", IDENTITY, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("count", "label"), [(134_515_008, "135M"), (81_000_000, "81M"), (1_540_000_000, "1.5B"), (7_600, "8K"), (0, "1K")]
)
def test_size_labels(count: int, label: str) -> None:
    assert size_label(count) == label
