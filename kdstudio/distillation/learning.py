"""What objectives need around the loop: the teacher's view of a pass, the reference, own answers, the alarm."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from kdstudio.catalogue.objectives import OBJECTIVES, Signal
from kdstudio.distillation.audit import Audited
from kdstudio.distillation.batches import Batch
from kdstudio.distillation.bound.base import Setting
from kdstudio.distillation.divergences import SPARSE
from kdstudio.distillation.forward import head_weight
from kdstudio.distillation.held_out import HeldOut, measure
from kdstudio.distillation.objectives import WeightedObjectives, needed_signals, uses_own_answers
from kdstudio.distillation.own_answers import OwnAnswers, Shape
from kdstudio.distillation.passes import Pass
from kdstudio.distillation.reference import Reference
from kdstudio.distillation.reporter import Reporter
from kdstudio.distillation.reward_watch import RewardHistory, WatchLimits, watch_rewards
from kdstudio.distillation.rewards import make_reward
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.stored_signals import StoredSignals
from kdstudio.distillation.teacher_side import TeacherSide
from kdstudio.distillation.teacher_signals import DenseTeacher, RunningTeacher
from kdstudio.errors import BadInput
from kdstudio.models.conversation import Tokenizer
from kdstudio.recipe import TrainingRecipe
from kdstudio.students.build import Student

_WATCHED = {
    "reward": "reward",
    "spread": "reward_spread",
    "kl": "kl_to_start",
    "entropy": "entropy",
    "length": "answer_tokens",
}


class Learning:
    """The objectives of a run with everything they read."""

    def __init__(
        self,
        job: Reporter,
        recipe: TrainingRecipe,
        student: Student,
        rows: TrainingRows,
        accelerator: Accelerator,
        side: TeacherSide,
    ) -> None:
        self._job, self._recipe, self._student, self._rows = job, recipe, student, rows
        self._accelerator, self._side = accelerator, side
        setting = Setting(student.config, side.config, recipe.run.seed)
        self.objectives = WeightedObjectives(recipe.objective, setting)
        self.objectives.modules.to(accelerator.device)
        self.watched = self.objectives.watch()
        self._needs = needed_signals(recipe.objective)
        self._reference: Reference | None = None
        self.answers = self._own_answers() if uses_own_answers(recipe) else None
        self._history: dict[str, list[float]] = {name: [] for name in _WATCHED}
        self._said: set[str] = set()

    def _own_answers(self) -> OwnAnswers:
        accelerator, names = self._accelerator, {table.name for table in self._recipe.objective}
        shape: Shape = "against" if "spin" in names else "beside" if "contrastive_skew" in names else "alone"
        dense = self._side.running
        teacher = dense.network() if dense is not None else None
        scored = Signal.REWARDS in self._needs or (Signal.PREFERENCES in self._needs)
        _require_comparable(self._recipe, compared=scored or shape == "against")
        reward = (
            make_reward(
                self._recipe.reward,
                tokenizer=self._student.tokenizer,
                teacher=teacher,
                project_folder=self._job.run_folder.parent.parent,
                device=accelerator.device,
                precision=accelerator.autocast,
            )
            if scored
            else None
        )
        return OwnAnswers(
            self._recipe.rollout,
            shape,
            self._recipe.run.seed,
            self._rows,
            self._student.model,
            self._student.tokenizer,
            accelerator.device,
            accelerator.autocast,
            teacher if self._recipe.rollout.source != "student" else None,
            reward,
            always=Signal.ROLLOUTS in self._needs or scored,
        )

    @property
    def keeps_first_weights(self) -> bool:
        """Whether an objective compares the student with how it began."""
        return Signal.REFERENCE_MODEL in self._needs

    def begin(self) -> None:
        """When the student's first weights stand, and before a checkpoint is restored: keep them if they are needed."""
        if not self.keeps_first_weights:
            return
        self._reference = Reference(self._student, self._rows, self._accelerator.device, self._accelerator.autocast)
        if self.answers is None:
            stored = list(self._rows.training)
            self._reference.remember(stored, going_on=self._going_on)
            self._reference.forget()
        elif self.answers.shape == "against":
            self.answers.opponent = self._reference

    def _going_on(self, done: int, total: int) -> bool:
        self._job.progress(done, total, unit="rows", stage="reference")
        return self._job.continues()

    def audited(self, teacher_tokenizer: Tokenizer | None) -> Audited:
        """What is checked before the first step."""
        source = self._side.source
        judge = self._side.judge if isinstance(self._side.judge, RunningTeacher) else None
        named = [(table.name, table.parameters) for table in self._recipe.objective if table.name in SPARSE]
        return Audited(
            self._student.model,
            self._student.tokenizer,
            self._rows,
            self._accelerator.device,
            self._accelerator.autocast,
            source if isinstance(source, RunningTeacher | StoredSignals) else None,
            judge,
            teacher_tokenizer,
            named,
        )

    def view(self, batch: Batch, hidden: Tensor, share: float) -> Pass:
        """A pass with everything the objectives read besides the student's own states."""
        view = Pass(batch, hidden, head_weight(self._student.model), share=share)
        source = self._side.source
        if self.watched[1] and isinstance(source, DenseTeacher):
            view.teacher, view.teacher_inner = source.look(batch, self.watched[1])
        elif source is not None:
            view.teacher = source.target(batch)
        if self._reference is not None:
            view.reference = self._reference.log_probs(batch)
        return view

    def prepare(self, batch: Batch, hidden: Tensor) -> dict[str, Tensor]:
        """What stays fixed while a round of own answers is learnt from. Called without gradients."""
        view = self.view(batch, hidden, 0.0)
        made = self.objectives.prepare(view)
        share = self._recipe.rollout.teacher_share
        if self._recipe.rollout.source == "teacher_mixed" and 0 < share < 1 and view.teacher is not None:
            sides = (view.teacher_log_probs + math.log(share), view.log_probs.detach() + math.log1p(-share))
            made["rollout_log_prob"] = torch.logaddexp(*sides)
        return made

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Look out for a reward that is being hacked; each kind of trouble is said once."""
        if "reward" not in values:
            return
        for name, metric in _WATCHED.items():
            self._history[name].append(values.get(metric, math.nan))
        reward = self.answers.reward if self.answers is not None else None
        bounds = None
        if reward is not None and reward.lowest is not None and reward.highest is not None:
            bounds = (reward.lowest, reward.highest)
        for finding in watch_rewards(RewardHistory(**self._history), WatchLimits(bounds=bounds)):
            if finding.sign not in self._said:
                self._said.add(finding.sign)
                self._job.warn(finding.title, f"Step {step}: {finding.detail}", finding.hint)

    def measure(self) -> HeldOut:
        """The student as it stands on the held-out rows. A reward model's own head says what responses are worth."""
        named = dict(self.objectives.modules.named_children())
        scorer = next((module for name, module in named.items() if name.startswith("reward_model")), None)
        accelerator, judge = self._accelerator, self._side.judge
        return measure(self._student.model, self._rows, judge, accelerator.device, accelerator.autocast, scorer)

    def after_validation(self, loss: float) -> None:
        """DistiLLM's schedule hears of every measurement."""
        if self.answers is not None:
            self.answers.after_validation(loss)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint must hold besides weights, optimiser and random states."""
        numbers: dict[str, Any] = {"history": self._history, "said": sorted(self._said)}
        if self.answers is None:
            return numbers, {}
        own, tensors = self.answers.state()
        return {**numbers, "answers": own}, tensors

    def restore(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        if "history" in numbers:
            self._history, self._said = numbers["history"], set(numbers["said"])
        if self.answers is not None and "answers" in numbers:
            self.answers.restore(numbers["answers"], tensors)


def _require_comparable(recipe: TrainingRecipe, *, compared: bool) -> None:
    """Raises `BadInput` where own answers would have nothing beside them: a run that learns nothing must say so."""
    among = [table.name for table in recipe.objective if table.name == "grpo" or _ranks(table.name)]
    if among and recipe.rollout.samples < 2:
        raise BadInput(
            "There is nothing to compare",
            f"{among[0]} compares the answers to one prompt, and rollout.samples is {recipe.rollout.samples}.",
            "Set rollout.samples to 2 or more.",
        )
    if compared and recipe.rollout.replay != "off":
        raise BadInput(
            "Answers that were kept cannot be compared",
            "They come back one by one, without their rewards and without those they were compared with.",
            'Set rollout.replay = "off".',
        )


def _ranks(name: str) -> bool:
    return Signal.PREFERENCES in OBJECTIVES[name].needs
