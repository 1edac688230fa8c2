"""A checkpoint is complete or not there, and what is damaged is passed over."""

from __future__ import annotations

import ast
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import kdstudio.distillation
from kdstudio import files
from kdstudio.distillation.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from kdstudio.errors import KnownError


class Setting:
    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"a.b": (3, 4), "c": (5,)}
        self.parameters = {
            name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()
        }
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1, fused=True)

    def step(self) -> None:
        for index, parameter in enumerate(self.parameters.values()):
            parameter.grad = torch.randn(parameter.shape) * (index + 1)
        self.optimizer.step()

    def save(self, root: Path, step: int) -> Checkpoint:
        return save_checkpoint(
            root, step, self.parameters, self.optimizer, recipe="r", progress={"tokens": step}, versions={"torch": "1"}
        )

    def weights(self) -> list[list[float]]:
        return [parameter.detach().flatten().tolist() for parameter in self.parameters.values()]


def test_weights_optimizer_and_chance_come_back(tmp_path: Path) -> None:
    one = Setting()
    one.step()
    one.save(tmp_path, 1)
    one.step()
    expected = one.weights()
    other = Setting(seed=9)
    found, faults = newest_checkpoint(tmp_path, "r")
    assert found is not None
    assert (found.step, found.progress, found.versions, faults) == (1, {"tokens": 1}, {"torch": "1"}, [])
    restore_checkpoint(found, other.parameters, other.optimizer)
    other.step()  # the random state gives the same gradients, the optimiser state the same update
    assert other.weights() == expected


def test_what_objectives_keep_comes_back_too(tmp_path: Path) -> None:
    setting = Setting()
    setting.step()
    extra = {"replay.tokens": torch.tensor([3, 1, 2]), "mean.a.b": torch.randn(3, 4), "empty": torch.zeros(0)}
    learning = {"history": {"reward": [0.5, math.nan]}, "answers": {"written": 3}}
    save_checkpoint(
        tmp_path,
        1,
        setting.parameters,
        setting.optimizer,
        recipe="r",
        progress={},
        versions={},
        learning=learning,
        extra=extra,
    )
    found, faults = newest_checkpoint(tmp_path, "r")
    assert found is not None
    assert faults == []
    assert found.learning["answers"] == {"written": 3}
    assert found.learning["history"]["reward"][0] == 0.5
    assert math.isnan(found.learning["history"]["reward"][1])  # a step that was not measured
    restored = restore_checkpoint(found, setting.parameters, setting.optimizer)
    assert restored.keys() == extra.keys()
    assert all(torch.equal(restored[name], extra[name]) for name in extra)


def test_a_checkpoint_of_an_earlier_format_is_passed_over(tmp_path: Path) -> None:
    Setting().save(tmp_path, 1)
    path = tmp_path / "step-000001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    found, faults = newest_checkpoint(tmp_path, "r")
    assert found is None
    assert "format 1" in faults[0]


def test_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    setting = Setting()
    for step in (8, 9, 10, 1_000_000):
        setting.step()
        setting.save(tmp_path, step)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-000010", "step-1000000"]
    found, _ = newest_checkpoint(tmp_path, "r")
    assert found is not None
    assert found.step == 1_000_000


@pytest.mark.parametrize(
    "name",
    ["weights.safetensors", "optimizer.safetensors", "random.safetensors", "learning.safetensors", "manifest.json"],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    setting = Setting()
    for step in (1, 2):
        setting.step()
        setting.save(tmp_path, step)
    path = tmp_path / "step-000002" / name
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes({"flip": data[:middle] + b"\x07" + data[middle + 1 :], "cut": data[:middle]}.get(damage, b""))
    if damage == "remove":
        path.unlink()
    found, faults = newest_checkpoint(tmp_path, "r")
    assert found is not None
    assert found.step == 1
    assert len(faults) == 1
    assert "step-000002" in faults[0]


def test_a_half_written_checkpoint_is_removed(tmp_path: Path) -> None:
    setting = Setting()
    setting.save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-000001", tmp_path / f"{files.TEMPORARY_MARK}step-000002-abc")
    found, faults = newest_checkpoint(tmp_path, "r")
    assert found is not None
    assert (found.step, faults) == (1, [])
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000001"]


def test_another_recipes_checkpoint_is_not_taken(tmp_path: Path) -> None:
    Setting().save(tmp_path, 1)
    found, faults = newest_checkpoint(tmp_path, "other")
    assert found is None
    assert "another recipe" in faults[0]
    assert newest_checkpoint(tmp_path / "nowhere", "r") == (None, [])


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting()
    setting.save(tmp_path, 1)
    monkeypatch.setattr(files, "free_bytes", lambda folder: 1000)
    with pytest.raises(KnownError, match="The disk is full"):
        setting.save(tmp_path, 2)
    found, _ = newest_checkpoint(tmp_path, "r")
    assert found is not None
    assert found.step == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("package", ["distillation", "students"])
def test_nothing_here_pickles(package: str) -> None:
    folder = Path(kdstudio.distillation.__file__).parent.parent / package
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "torch.load", "shelve", "marshal"} & set(names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, path
