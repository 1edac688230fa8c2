"""The refit against its definition: the teacher's own residual streams, and a NumPy least-squares solution."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from kdstudio.catalogue.training import StudentTable
from kdstudio.distillation.forward import weight_of
from kdstudio.errors import BadInput, Stopped
from kdstudio.students import refit as refitting
from kdstudio.students.build import Student, build, load_source
from kdstudio.students.network import assemble
from kdstudio.students.refit import calibration_batches, refit
from tests.tiny import tiny_model

TEACHER = tiny_model(layers=4)
ROWS = [np.random.default_rng(row).integers(3, 400, 20 + row % 9).tolist() for row in range(40)]


def student(*, adapter: str = "full", layers: tuple[int, ...] = (0, 3)) -> Student:
    return build(StudentTable.model_validate({"layers": layers, "adapter": adapter}), TEACHER, seed=0)


def run(made: Student, rows: list[list[int]] = ROWS) -> list[tuple[float, float]]:
    batches = list(calibration_batches(rows, 0, 128, torch.device("cpu")))
    network = assemble(*load_source(TEACHER), "teacher")
    layers = made.description["layers"]
    return refit(made.model, network, layers, batches, nullcontext, going_on=lambda done, total: True)


def test_every_layer_comes_nearer_and_only_down_projections_change() -> None:
    made, before = student(), student()
    errors = run(made)
    assert len(errors) == 2
    assert all(after < earlier for earlier, after in errors)
    for (name, ours), (_, theirs) in zip(made.model.named_parameters(), before.model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs) is ("down_proj" not in name), name


def test_a_student_that_keeps_every_layer_is_already_right() -> None:
    made = student(layers=(0, 1, 2, 3))
    assert max(earlier for earlier, _ in run(made)) < 1e-5
    kept = build(StudentTable(), TEACHER, seed=0)
    for (name, ours), (_, theirs) in zip(made.model.named_parameters(), kept.model.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0, msg=name)


def test_the_first_layer_is_the_ridge_solution() -> None:
    rows = [row[:18] for row in ROWS]
    made = student()
    network = assemble(*load_source(TEACHER), "teacher")
    ids = torch.tensor(rows)
    seen: list[torch.Tensor] = []
    down = made.model.get_submodule("model.layers.0.mlp.down_proj")
    hook = down.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        ours = made.model(ids, output_hidden_states=True).hidden_states[1]
        theirs = network(ids, output_hidden_states=True).hidden_states[3]  # what the teacher's layer 3 reads
    hook.remove()
    goal, inputs = (part[:, 1:].flatten(0, 1).double().numpy() for part in (theirs - ours, seen[0]))
    scale = 1 / np.linalg.norm(theirs[:, 1:].flatten(0, 1).double().numpy(), axis=1, keepdims=True)
    weighted = inputs * scale
    gram = weighted.T @ weighted
    gram += refitting.RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    change = np.linalg.solve(gram, weighted.T @ (goal * scale)).T
    expected = weight_of(made.model, "model.layers.0.mlp.down_proj").detach().double().numpy() + change
    run(made, rows)
    found = weight_of(made.model, "model.layers.0.mlp.down_proj").detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_it_refits_the_base_under_lora() -> None:
    plain, adapted = student(), student(adapter="lora")
    run(plain)
    run(adapted)
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        torch.testing.assert_close(adapted.finished()(ids).logits, plain.model(ids).logits, atol=1e-3, rtol=1e-3)


def test_the_calibration_rows_are_bounded_and_count_the_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(calibration_batches(ROWS, 5, 128, torch.device("cpu")))
    assert sum(int(keep.sum()) for _, keep in whole) == sum(len(row) - 5 for row in ROWS) + 4
    monkeypatch.setattr(refitting, "CALIBRATION_BYTES", 4 * 128 * 300)
    some = list(calibration_batches(ROWS, 0, 128, torch.device("cpu")))
    assert 200 < sum(int(keep.sum()) for _, keep in some) <= 300


def test_it_can_be_stopped() -> None:
    made = student()
    batches = list(calibration_batches(ROWS, 0, 128, torch.device("cpu")))
    network = assemble(*load_source(TEACHER), "teacher")
    with pytest.raises(Stopped):
        refit(made.model, network, (0, 3), batches, nullcontext, going_on=lambda done, total: False)


def test_there_must_be_a_teacher_to_compare_with() -> None:
    for table in (StudentTable(source="fresh", refit=True), StudentTable(path=str(tiny_model(layers=2)), refit=True)):
        with pytest.raises(BadInput, match="nothing to refit"):
            build(table, TEACHER, seed=0)


def test_frozen_embeddings_are_not_trained() -> None:
    made = build(StudentTable(freeze_embeddings=True), TEACHER, seed=0)
    frozen = {name for name, item in made.model.named_parameters() if not item.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "lm_head.weight"}
