"""Students from every source, LoRA among them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdstudio.catalogue.training import StudentTable
from kdstudio.distillation.forward import weight_of
from kdstudio.errors import BadInput
from kdstudio.students.adapters import TARGETS
from kdstudio.students.build import build
from kdstudio.students.save import open_student
from tests.tiny import tiny_gguf, tiny_model

IDS = torch.tensor([[5, 80, 99, 140]])


def test_a_student_cut_from_its_teacher() -> None:
    student = build(StudentTable(layer_count=3), tiny_model(layers=4), seed=0)
    assert student.config["num_hidden_layers"] == 3
    assert student.description["layers"] == [0, 1, 3]
    assert student.description["parameters"] == sum(item.numel() for item in student.model.parameters())
    assert student.tokenizer.template


def test_a_student_cut_from_a_folder(tmp_path: Path) -> None:
    build(StudentTable(), tiny_model(layers=4), seed=0).save(tmp_path / "student", {})
    student = build(StudentTable(source="folder", path=str(tmp_path / "student"), layers=(0, 2)), None, seed=0)
    assert student.config["num_hidden_layers"] == 2
    whole, _, _ = open_student(tmp_path / "student")
    kept = weight_of(student.model, "model.layers.1.mlp.up_proj")
    assert torch.equal(kept, weight_of(whole, "model.layers.2.mlp.up_proj"))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_fresh_student_has_the_size_asked_for_and_the_seeds_weights(architecture: str) -> None:
    teacher = tiny_model(architecture=architecture, layers=2, hidden=64, heads=4, kv_heads=2)
    table = StudentTable(source="fresh", layer_count=1, hidden_size=32)
    one, same, other = (build(table, teacher, seed=seed) for seed in (1, 1, 2))
    assert one.config["hidden_size"] == 32
    assert one.config["num_attention_heads"] == 2
    weights = [weight_of(student.model, "model.layers.0.mlp.up_proj") for student in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.model(IDS).logits.shape[-1] == one.tokenizer.vocabulary_size


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(StudentTable(source="fresh", layer_count=1, adapter="lora"), tiny_model(layers=2), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_width_that_holds_no_whole_heads_is_refused() -> None:
    with pytest.raises(BadInput, match="width"):
        build(StudentTable(source="fresh", hidden_size=40), tiny_model(layers=2), seed=0)


def test_lora_trains_only_adapters_and_merges_into_what_it_computed(tmp_path: Path) -> None:
    teacher = tiny_model(layers=2)
    plain = build(StudentTable(), teacher, seed=3)
    student = build(StudentTable(adapter="lora", lora_rank=4, lora_alpha=8), teacher, seed=3)
    trainable = [name for name, item in student.model.named_parameters() if item.requires_grad]
    assert len(trainable) == 2 * 2 * len(TARGETS)
    assert all("lora_" in name for name in trainable)
    with torch.no_grad():
        assert torch.equal(student.model(IDS).logits, plain.model(IDS).logits)
        generator = torch.Generator().manual_seed(0)
        for name, item in student.model.named_parameters():
            if "lora_B" in name:
                item.copy_(torch.randn(item.shape, generator=generator) * 0.1)
        adapted = student.model(IDS).logits
        assert (adapted - plain.model(IDS).logits).abs().max() > 1e-2
        student.save(tmp_path / "student", {})
        merged, _, _ = open_student(tmp_path / "student")
        torch.testing.assert_close(merged(IDS).logits, adapted, atol=1e-4, rtol=1e-4)


def test_adapters_start_from_the_seed() -> None:
    table = StudentTable(adapter="lora", lora_rank=2)
    first, same, other = (
        dict(build(table, tiny_model(layers=2), seed=seed).model.named_parameters()) for seed in (1, 1, 2)
    )
    name = next(name for name in first if "lora_A" in name)
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])


def test_a_student_without_a_source_is_refused() -> None:
    for table in (StudentTable(), StudentTable(source="folder"), StudentTable(source="fresh")):
        with pytest.raises(BadInput, match="no source"):
            build(table, None, seed=0)


@pytest.mark.parametrize("source", ["gone.gguf", "gone"])
def test_a_source_that_is_not_there_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(BadInput):
        build(StudentTable(path=str(tmp_path / source)), None, seed=0)


def test_an_architecture_that_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot become a student"):
        build(StudentTable(), tiny_gguf(tmp_path / "a.gguf", layers=1, architecture="gemma"), seed=0)
