"""The one training loop. It knows objectives, teachers and students only by what they promise.

A step is a pure function of (weights, optimiser state, random states, seed, step number), and a checkpoint holds all of
these: an interrupted run that goes on walks the very same curve.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from kdstudio.distillation.audit import report
from kdstudio.distillation.batches import Batch, BatchPlan
from kdstudio.distillation.checkpoint import Checkpoint as Saved
from kdstudio.distillation.checkpoint import newest_checkpoint, restore_checkpoint, save_checkpoint
from kdstudio.distillation.experience import Experience, StepRows
from kdstudio.distillation.forward import Embedded, watched_hidden
from kdstudio.distillation.inner_states import Watch
from kdstudio.distillation.learning import Learning
from kdstudio.distillation.objectives import Sums
from kdstudio.distillation.passes import Per
from kdstudio.distillation.planning import planned_steps
from kdstudio.distillation.randomness import seed_everything
from kdstudio.distillation.ranks import Shares
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.rewards import OBJECTIVE_NAME
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.samples import greedy_answers, sample_examples, text_of
from kdstudio.distillation.teacher_side import TeacherSide
from kdstudio.distillation.weights import TrainedWeights
from kdstudio.errors import KnownError
from kdstudio.jobs.events import Checkpoint, Metric, Sample
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import Student
from kdstudio.students.tensor_file import write_tensors

CHECKPOINTS_NAME = "checkpoints"


@dataclass
class Outcome:
    """What a run has come to: steps done, tokens read, seconds of training, and the held-out measurements."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    before: dict[str, float] = field(default_factory=dict)
    refitted: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains `student` on `rows` as `recipe` says, with the signals and the measure that the teacher's `side` gives."""

    def __init__(
        self,
        job: Reporter,
        recipe: TrainingRecipe,
        recipe_hash: str,
        student: Student,
        rows: TrainingRows,
        accelerator: Accelerator,
        side: TeacherSide,
        versions: dict[str, str],
    ) -> None:
        self._job, self._recipe, self._hash, self._rows, self._student = job, recipe, recipe_hash, rows, student
        self._accelerator, self._side, self._versions = accelerator, side, versions
        self._network = student.model.to(accelerator.device)
        self._learning = Learning(job, recipe, student, rows, accelerator, side)
        own = self._learning.objectives.modules
        self._weights = TrainedWeights(self._network, own, recipe.optimizer, accelerator)
        run = recipe.run
        plan = BatchPlan(
            [rows.tokens(unit) for unit in rows.units],
            rows_per_batch=run.rows_per_batch,
            accumulation=run.accumulation,
            seed=run.seed,
        )
        self._experience = Experience(rows, plan, accelerator.device, self._learning.answers, self._prepare)
        self._total = planned_steps(recipe, len(rows.units))
        self._prefix = rows.prefix.to(accelerator.device)
        self._shares = Shares(accelerator)
        self._samples = sample_examples(rows.examples, rows.held_out)
        self._checkpoints = job.run_folder / CHECKPOINTS_NAME
        self._outcome = Outcome()
        self._saved = -1

    def run(self) -> Outcome:
        """Train from the newest good checkpoint, or from the start, to the end or until a stop is asked for."""
        seed_everything(self._recipe.run.seed, "dropout")
        found = self._newest()
        if found is None and self._rows.held_out:
            self._measure(0)
            self._outcome.before = dict(self._outcome.held_out)
        # A checkpoint holds neither LoRA's base nor the student as it began: both are made again
        again = self._student.wrapped is not None or self._learning.keeps_first_weights
        if self._recipe.student.refit and (found is None or again):
            self._refit()
        elif self._recipe.student.refit:
            self._side.recall(self._job, self._student, self._rows, self._accelerator)
        self._learning.begin()
        if self._recipe.run.sharding != "none":
            self._weights.shard()
        if found is not None:
            extra = restore_checkpoint(found, self._weights.parameters, self._weights.optimizer)
            self._weights.average.restore(extra)
            self._learning.restore(found.learning, extra)
            self._outcome = Outcome(steps=found.step, **found.progress)
            self._saved = found.step
        self._check()
        self._network.train()
        while self._outcome.steps < self._total:
            if self._experience.boundary(self._outcome.steps) and not self._job.continues():
                if self._outcome.steps:
                    self._save()
                break
            self._one(self._outcome.steps)
        self._network.train(False)
        self._weights.finish()
        return self._outcome

    def _check(self) -> None:
        """Say what the audit finds, and stop at a fault, where the recipe does not ask for less."""
        if self._recipe.run.audit != "off":
            report(self._job, self._learning.audited(self._side.tokenizer), stop=self._recipe.run.audit == "stop")

    def save_own_weights(self, folder: Path) -> None:
        """Beside the student, the weights that belong to an objective (a reward model's head), if there are any."""
        own = {name: item.detach().contiguous() for name, item in self._learning.objectives.modules.named_parameters()}
        if own:
            write_tensors(own, folder / OBJECTIVE_NAME)

    def _refit(self) -> None:
        """Give the student its better start.

        The held-out curves' step 0 stays the student as it was cut; what the refit alone came to has names of its own,
        such as refitted_forward_kl.
        """
        began = time.perf_counter()
        self._side.refit(self._job, self._student, self._rows, self._accelerator)
        self._weights.average.restart()
        if self._rows.held_out:
            self._outcome.refitted = self._learning.measure().values()
            named = {name.replace("held_out", "refitted"): value for name, value in self._outcome.refitted.items()}
            self._job.emit(Metric(0, named))
        self._outcome.seconds += time.perf_counter() - began

    def _one(self, step: int) -> None:
        """One optimiser step with all that is due after it."""
        began = time.perf_counter()
        taken = self._experience.step(step, self._total)
        values = self._step(step, taken)
        seconds = time.perf_counter() - began
        outcome, run = self._outcome, self._recipe.run
        outcome.steps, outcome.tokens, outcome.seconds = (
            step + 1,
            outcome.tokens + taken.tokens,
            outcome.seconds + seconds,
        )
        outcome.loss = values["loss"]
        values |= {
            "tokens_per_second": taken.tokens / seconds,
            "memory_bytes": float(_memory(self._accelerator.device)),
        }
        self._job.emit(Metric(step + 1, values))
        self._job.progress(step + 1, self._total, unit="steps", tokens=outcome.tokens, stage="train")
        self._learning.watch(step + 1, values)
        last = step + 1 == self._total
        if self._rows.held_out and (last or (step + 1) % run.evaluate_every == 0):
            self._measure(step + 1)
        if not last and (step + 1) % run.checkpoint_every == 0 and self._experience.boundary(step + 1):
            self._save()

    def _step(self, step: int, taken: StepRows) -> dict[str, float]:
        """Forward, backward and update over one step's rows; returns its metrics."""
        sums, counts, share = Sums(), taken.counts, step / self._total
        for place, batch in enumerate(taken.batches):
            own = self._shares.own(batch, taken.extras[place] if taken.extras else {}, len(self._prefix))
            if own is not None:
                self._backward(own[0], counts, share, own[1], sums)
            elif self._weights.sharded:
                self._backward(self._shares.first(batch, len(self._prefix)), counts, share, {}, None)
        self._shares.add_up(list(self._weights.parameters.values()), sums)
        norm = self._weights.clip()
        if not math.isfinite(sums.loss) or not math.isfinite(norm):
            raise KnownError(
                "The loss is no longer a number",
                f"At step {step + 1} it became {sums.loss}, with gradients of norm {norm}.",
                "Lower optimizer.learning_rate, lengthen its warm-up, or clip more; then start again.",
            )
        rate = self._weights.update(step, self._total)
        values = {"loss": sums.loss, "learning_rate": rate, "grad_norm": norm, **sums.figures}
        return values | {f"loss_{name}": part for name, part in sums.parts.items()}

    def _backward(
        self, batch: Batch, counts: dict[Per, int], share: float, extras: dict[str, Tensor], sums: Sums | None
    ) -> None:
        """Add the gradients of one forward pass, and its share of the step's loss to `sums`.

        Without `sums` it is not counted: sharded weights come whole where every process computes along.
        """
        embedded = Embedded(self._network, batch, self._prefix)
        with self._accelerator.autocast():
            hidden, inner = watched_hidden(self._network, batch, embedded, self._learning.watched[0])
        view = self._learning.view(batch, hidden.detach().requires_grad_(), share)
        view.inner, view.extras = None if inner is None else inner.leaves(), extras
        if sums is not None:
            self._learning.objectives.run(view, counts, sums)
        if self._weights.sharded and view.hidden.grad is None:
            view.hidden.grad = torch.zeros_like(view.hidden)
        roots, leaves = [hidden], [view.hidden]
        if inner is not None and view.inner is not None:
            roots, leaves = [hidden, *inner.tensors()], [view.hidden, *view.inner.tensors()]
        reached = [(root, leaf.grad) for root, leaf in zip(roots, leaves, strict=True) if leaf.grad is not None]
        if reached:
            torch.autograd.backward([root for root, _ in reached], [grad.to(root.dtype) for root, grad in reached])
            embedded.backward()

    @torch.no_grad()
    def _prepare(self, batch: Batch) -> dict[str, Tensor]:
        """What the objectives keep of a pass over new own answers."""
        with self._accelerator.autocast():
            hidden, _ = watched_hidden(self._network, batch, Embedded(self._network, batch, self._prefix), Watch())
        return self._learning.prepare(batch, hidden.float())

    def _measure(self, step: int) -> None:
        """Measure on the held-out rows, and let the student speak."""
        began = time.perf_counter()
        device = self._accelerator.device
        with self._weights.average.applied():
            found = self._learning.measure()
            prompts = [example.prompt_ids.tolist() for example in self._samples]
            with self._accelerator.autocast():
                answers = greedy_answers(self._network, prompts, self._student.tokenizer.end_ids, device)
        self._outcome.held_out = found.values()
        self._job.emit(Metric(step, found.values()))
        if self._accelerator.is_main_process:
            found.write(self._job.run_folder, before=step == 0)
        self._learning.after_validation(found.nll)
        for example, answer in zip(self._samples, answers, strict=True):
            text = text_of(self._student.tokenizer, answer)
            self._job.emit(Sample(step, example.prompt, text, example.response))
        self._outcome.seconds += time.perf_counter() - began

    def _save(self) -> None:
        outcome, weights = self._outcome, self._weights
        writes = self._accelerator.is_main_process
        if outcome.steps == self._saved or not (writes or weights.sharded):
            return
        progress = {key: value for key, value in vars(outcome).items() if key != "steps"}
        learning, extra = self._learning.state()
        made = save_checkpoint(
            self._checkpoints,
            outcome.steps,
            weights.parameters,
            weights.optimizer,
            recipe=self._hash,
            progress=progress,
            versions=self._versions,
            learning=learning,
            extra={**extra, **weights.average.tensors()},
            writes=writes,
        )
        self._saved = outcome.steps
        path = made.folder.relative_to(self._job.run_folder).as_posix()
        self._job.emit(Checkpoint(outcome.steps, path), durable=True)

    def _newest(self) -> Saved | None:
        """The checkpoint to go on from, with what the person should know of it."""
        found, faults = newest_checkpoint(self._checkpoints, self._hash)
        if faults:
            self._job.warn(
                "A damaged checkpoint was passed over",
                "; ".join(faults),
                f"Training goes on from step {found.step if found else 0}.",
            )
        before = found.versions if found else {}
        changed = [name for name, version in before.items() if self._versions.get(name) != version]
        if changed:
            self._job.warn(
                "Versions have changed since the checkpoint",
                ", ".join(f"{name} was {before[name]}" for name in changed),
                "The rest of the curve may differ in its last digits.",
            )
        return found


def _memory(device: torch.device) -> int:
    """Bytes in use: the GPU's peak, else this process's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
