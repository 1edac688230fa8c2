"""The refit against its definition: the teacher's own residual streams, and a NumPy least-squares solution."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from kdstudio.catalogue.training import StudentTable
from kdstudio.distillation.forward import weight_of
from kdstudio.errors import BadInput, KnownError, Stopped
from kdstudio.networks.network import assemble
from kdstudio.students import refit as refitting
from kdstudio.students.build import Student, build, load_source
from kdstudio.students.refit import Refitted, refit, teacher_hidden
from kdstudio.students.streams import CalibrationRows, ResidualStream
from tests.tiny import tiny_model

TEACHER = tiny_model(layers=4)
ROWS = [np.random.default_rng(row).integers(3, 400, 20 + row % 9).tolist() for row in range(40)]


def student(*, adapter: str = "full", layers: tuple[int, ...] = (0, 3)) -> Student:
    return build(StudentTable.model_validate({"layers": layers, "adapter": adapter}), TEACHER, seed=0)


def calibration(rows: list[list[int]] = ROWS, prefix: int = 0, size: int = 16, padding: int = 0) -> CalibrationRows:
    """Rows in batches of `size`, each padded by at least `padding`; the first `prefix` tokens of row 0 are shared."""
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    batches = [torch.full((len(part), max(map(len, part)) - prefix + padding), 7) for part in parts]
    for part, ids in zip(parts, batches, strict=True):
        for place, row in enumerate(part):
            ids[place, : len(row) - prefix] = torch.tensor(row[prefix:])
    lengths = [torch.tensor([len(row) - prefix for row in part]) for part in parts]
    return CalibrationRows(torch.tensor(rows[0][:prefix], dtype=torch.int64), batches, lengths)


def network_of_teacher() -> PreTrainedModel:
    return assemble(*load_source(TEACHER), "teacher")


def run(made: Student, rows: CalibrationRows | None = None) -> Refitted:
    layers = made.description["layers"]
    chosen = rows or calibration()
    return refit(made.model, network_of_teacher(), layers, chosen, nullcontext, going_on=lambda done, total: True)


def down_projections(made: Student) -> list[torch.Tensor]:
    return [item.detach() for name, item in made.model.named_parameters() if "down_proj" in name]


def test_every_layer_comes_nearer_and_only_down_projections_change() -> None:
    made, before = student(), student()
    errors = run(made).errors
    assert len(errors) == 2
    assert all(after < earlier for earlier, after in errors)
    for (name, ours), (_, theirs) in zip(made.model.named_parameters(), before.model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs) is ("down_proj" not in name), name


def test_a_student_that_keeps_every_layer_is_already_right() -> None:
    made = student(layers=(0, 1, 2, 3))
    assert run(made).errors == [(0.0, 0.0)] * 4
    kept = build(StudentTable(), TEACHER, seed=0)
    for (name, ours), (_, theirs) in zip(made.model.named_parameters(), kept.model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


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
    run(made, calibration(rows))
    found = weight_of(made.model, "model.layers.0.mlp.down_proj").detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_it_refits_the_base_under_lora() -> None:
    plain, adapted = student(), student(adapter="lora")
    run(plain)
    run(adapted)
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        torch.testing.assert_close(adapted.finished()(ids).logits, plain.model(ids).logits, atol=1e-3, rtol=1e-3)


def test_neither_padding_nor_batches_nor_a_shared_prefix_change_the_result() -> None:
    rows = [[*ROWS[0][:6], *row] for row in ROWS]
    plain, padded, other = student(), student(), student()
    shared = run(plain, calibration(rows, prefix=6))
    run(padded, calibration(rows, prefix=6, padding=5))
    run(other, calibration(rows, prefix=6, size=7))
    for expected, *found in zip(*map(down_projections, (plain, padded, other)), strict=True):
        for item in found:
            torch.testing.assert_close(item, expected, atol=2e-4, rtol=1e-3)
    alone = teacher_hidden(network_of_teacher(), calibration(rows), nullcontext, going_on=lambda done, total: True)
    for ours, theirs in zip(shared.hidden, alone, strict=True):
        torch.testing.assert_close(ours, theirs[:, 6:], atol=1e-4, rtol=1e-4)


def test_the_teachers_hidden_states_are_the_networks_own_and_the_same_without_a_refit() -> None:
    rows, network = calibration(ROWS[:5]), network_of_teacher()
    found = run(student(), rows).hidden
    again = teacher_hidden(network, rows, nullcontext, going_on=lambda done, total: True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, again, strict=True))
    with torch.no_grad():
        expected = network.get_submodule("model")(input_ids=rows.batches[0]).last_hidden_state
    for row, length in enumerate(rows.lengths[0].tolist()):
        torch.testing.assert_close(found[0][row, :length], expected[row, :length], atol=1e-4, rtol=1e-4)


def test_a_projection_that_nothing_reaches_stays_as_it_is() -> None:
    made = student()
    with torch.no_grad():
        weight_of(made.model, "model.layers.0.mlp.up_proj").zero_()
    before = down_projections(made)[0].clone()
    run(made)
    assert torch.equal(down_projections(made)[0], before)


def test_states_that_are_no_numbers_are_said() -> None:
    made, network = student(), network_of_teacher()
    with torch.no_grad():
        weight_of(network, "model.layers.1.mlp.up_proj").fill_(float("nan"))
    with pytest.raises(KnownError, match="could not be refitted"):
        refit(made.model, network, (0, 3), calibration(), nullcontext, going_on=lambda done, total: True)


def test_it_can_be_stopped() -> None:
    made, asked = student(), []

    def going_on(done: int, total: int) -> bool:
        asked.append((done, total))
        return len(asked) < 2

    with pytest.raises(Stopped):
        refit(made.model, network_of_teacher(), (0, 3), calibration(), nullcontext, going_on=going_on)
    assert asked == [(1, 4), (2, 4)]


def test_one_state_a_token_is_held_whatever_the_depth() -> None:
    stream = ResidualStream(network_of_teacher(), calibration(ROWS[:4]), nullcontext)
    shapes = [state.shape for state in stream.states]
    with torch.no_grad():
        for layer in stream.layers:
            stream.advance(layer)
    assert [state.shape for state in stream.states] == shapes


def test_there_must_be_a_teacher_to_compare_with() -> None:
    for table in (StudentTable(source="fresh", refit=True), StudentTable(path=str(tiny_model(layers=2)), refit=True)):
        with pytest.raises(BadInput, match="nothing to refit"):
            build(table, TEACHER, seed=0)


def test_the_layers_must_rise() -> None:
    with pytest.raises(BadInput, match="rising order"):
        build(StudentTable(layers=(2, 0), refit=True), TEACHER, seed=0)


def test_frozen_embeddings_are_not_trained() -> None:
    made = build(StudentTable(freeze_embeddings=True), TEACHER, seed=0)
    frozen = {name for name, item in made.model.named_parameters() if not item.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "lm_head.weight"}
