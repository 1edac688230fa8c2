"""The one training loop. It knows objectives, teachers and students only by what they promise.

A step is a pure function of (weights, optimiser state, random states, seed, step number), and a checkpoint holds all of
these: an interrupted run that goes on walks the very same curve.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from kdstudio.distillation.batches import BatchPlan
from kdstudio.distillation.checkpoint import Checkpoint as Saved
from kdstudio.distillation.checkpoint import newest_checkpoint, restore_checkpoint, save_checkpoint
from kdstudio.distillation.forward import Embedded, head_logits, head_weight, response_hidden
from kdstudio.distillation.held_out import HeldOut, measure, token_pieces
from kdstudio.distillation.objectives import WeightedObjectives
from kdstudio.distillation.planning import planned_steps
from kdstudio.distillation.randomness import seed_everything
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.samples import greedy_answers, sample_examples, text_of
from kdstudio.distillation.schedule import learning_rate
from kdstudio.distillation.targets import Targets
from kdstudio.distillation.teacher_side import TeacherSide
from kdstudio.errors import KnownError
from kdstudio.jobs.events import Checkpoint, Metric, Sample
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import Student

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
        self._parameters = {name: item for name, item in self._network.named_parameters() if item.requires_grad}
        self._optimizer = _optimizer(self._parameters, recipe)
        self._objectives = WeightedObjectives(recipe.objective)
        run = recipe.run
        self._plan = BatchPlan(
            [rows.examples[row].tokens for row in rows.training],
            rows_per_batch=run.rows_per_batch,
            accumulation=run.accumulation,
            seed=run.seed,
        )
        self._total = planned_steps(recipe, rows.count)
        self._prefix = rows.prefix.to(accelerator.device)
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
        if self._recipe.student.refit and (found is None or self._student.wrapped is not None):
            self._refit()  # under LoRA a checkpoint holds the adapters alone, so their base is made again
        elif self._recipe.student.refit:
            self._side.recall(self._job, self._student, self._rows, self._accelerator)
        if found is not None:
            restore_checkpoint(found, self._parameters, self._optimizer)
            self._outcome = Outcome(steps=found.step, **found.progress)
            self._saved = found.step
        self._network.train()
        while self._outcome.steps < self._total:
            if not self._job.continues():
                if self._outcome.steps:
                    self._save()
                break
            self._one(self._outcome.steps)
        self._network.train(False)
        return self._outcome

    def _refit(self) -> None:
        """Give the student its better start.

        The held-out curves' step 0 stays the student as it was cut; what the refit alone came to has names of its own,
        such as refitted_forward_kl.
        """
        began = time.perf_counter()
        self._side.refit(self._job, self._student, self._rows, self._accelerator)
        if self._rows.held_out:
            device, precision = self._accelerator.device, self._accelerator.autocast
            self._outcome.refitted = measure(self._network, self._rows, self._side.judge, device, precision).values()
            named = {name.replace("held_out", "refitted"): value for name, value in self._outcome.refitted.items()}
            self._job.emit(Metric(0, named))
        self._outcome.seconds += time.perf_counter() - began

    def _one(self, step: int) -> None:
        """One optimiser step with all that is due after it."""
        began = time.perf_counter()
        values = self._step(step)
        tokens = sum(self._rows.tokens(rows) for rows in self._plan.step(step))
        seconds = time.perf_counter() - began
        outcome, run = self._outcome, self._recipe.run
        outcome.steps, outcome.tokens, outcome.seconds = step + 1, outcome.tokens + tokens, outcome.seconds + seconds
        outcome.loss = values["loss"]
        values |= {"tokens_per_second": tokens / seconds, "memory_bytes": float(_memory(self._accelerator.device))}
        self._job.emit(Metric(step + 1, values))
        self._job.progress(step + 1, self._total, unit="steps", tokens=outcome.tokens, stage="train")
        last = step + 1 == self._total
        if self._rows.held_out and (last or (step + 1) % run.evaluate_every == 0):
            self._measure(step + 1)
        if not last and (step + 1) % run.checkpoint_every == 0:
            self._save()

    def _step(self, step: int) -> dict[str, float]:
        """Forward, backward and update over one step's rows; returns its metrics."""
        batches = self._plan.step(step)
        count = sum(self._rows.response_tokens(rows) for rows in batches)
        sums = torch.zeros(1 + len(self._recipe.objective), dtype=torch.float64)
        for rows in batches:
            sums += self._backward(rows, count)
        loss, *parts = (sums / count).tolist()
        table = self._recipe.optimizer
        rate = learning_rate(step, self._total, table)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = float(self._accelerator.clip_grad_norm_(list(self._parameters.values()), table.clip_norm or math.inf))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise KnownError(
                "The loss is no longer a number",
                f"At step {step + 1} it became {loss}, with gradients of norm {norm}.",
                "Lower optimizer.learning_rate, lengthen its warm-up, or clip more; then start again.",
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        values = {"loss": loss, "learning_rate": rate, "grad_norm": norm}
        return values | {f"loss_{name}": part for name, part in zip(self._objectives.labels(), parts, strict=True)}

    def _backward(self, rows: tuple[int, ...], count: int) -> Tensor:
        """Add the gradients of one forward pass, weighed by its share of the step's `count` tokens; returns loss sums.

        The head and its loss run in pieces of tokens, each with its own backward pass, so that a long batch over a
        large vocabulary needs no more memory than a short one.
        """
        batch = self._rows.batch(rows, self._accelerator.device)
        embedded = Embedded(self._network, batch, self._prefix)
        with self._accelerator.autocast():
            hidden = response_hidden(self._network, batch, embedded)
        targets = Targets(batch.labels, None if self._side.source is None else self._side.source.target(batch))
        head = head_weight(self._network)
        sums = torch.zeros(1 + len(self._recipe.objective), dtype=torch.float64)
        leaf = hidden.detach().requires_grad_()
        for piece in token_pieces(len(targets), head.shape[0]):
            total, parts = self._objectives(head_logits(leaf[piece], head), targets[piece])
            self._accelerator.backward(total / count)
            sums += torch.stack([total.detach(), *parts]).cpu().double()  # Apple's GPUs know no float64
        torch.autograd.backward(hidden, leaf.grad)
        embedded.backward()
        return sums

    def _measure(self, step: int) -> HeldOut:
        """Measure on the held-out rows, and let the student speak."""
        began = time.perf_counter()
        device = self._accelerator.device
        found = measure(self._network, self._rows, self._side.judge, device, self._accelerator.autocast)
        self._outcome.held_out = found.values()
        self._job.emit(Metric(step, found.values()))
        prompts = [example.prompt_ids.tolist() for example in self._samples]
        with self._accelerator.autocast():
            answers = greedy_answers(self._network, prompts, self._student.tokenizer.end_ids, device)
        for example, answer in zip(self._samples, answers, strict=True):
            text = text_of(self._student.tokenizer, answer)
            self._job.emit(Sample(step, example.prompt, text, example.response))
        self._outcome.seconds += time.perf_counter() - began
        return found

    def _save(self) -> None:
        outcome = self._outcome
        if outcome.steps == self._saved:
            return
        progress = {key: value for key, value in vars(outcome).items() if key != "steps"}
        made = save_checkpoint(
            self._checkpoints,
            outcome.steps,
            self._parameters,
            self._optimizer,
            recipe=self._hash,
            progress=progress,
            versions=self._versions,
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


def _optimizer(parameters: dict[str, Any], recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101); decay on matrices only."""
    table = recipe.optimizer
    matrices = [item for item in parameters.values() if item.dim() >= 2]
    others = [item for item in parameters.values() if item.dim() < 2]
    groups = [{"params": matrices, "weight_decay": table.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=table.learning_rate,
        betas=(table.beta1, table.beta2),
        fused=True,  # one pass over memory: a quarter of the time on a CPU
    )


def _memory(device: torch.device) -> int:
    """Bytes in use: the GPU's peak, else this process's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
