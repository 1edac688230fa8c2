"""The newcomer's eight steps, computed from what the project holds; nothing is ticked by hand.

Pure reading without widgets: Home calls `read_steps` in a background task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdstudio.ui.session import ACTIVE_STATES
from kdstudio.ui.widgets.wording import number, plural

if TYPE_CHECKING:
    from kdstudio.project import Project, Run

State = Literal["done", "running", "next", "ready", "blocked"]


OPEN = "open"
"""What a step comes after that needs no more than an open project."""


@dataclass(frozen=True)
class StepText:
    """What a step is called, why one does it, its button, what it needs, and the job that does it ("" for none)."""

    key: str
    title: str
    words: str
    action: str
    needs: str
    job: str = ""
    after: tuple[str, ...] = ()


STEPS: tuple[StepText, ...] = (
    StepText(
        "project",
        "Open the sample project",
        "Hundreds of short prompts of one job: write the first sentence of a story.",
        "Create sample project",
        "",
    ),
    StepText(
        "teacher",
        "Get the sample teacher",
        "SmolLM2-135M, 93 MB, Apache-2.0. It shows the way, not the quality.",
        "Get it (93 MB)",
        "Open a project first.",
        "fetch_sample",
        (OPEN,),
    ),
    StepText(
        "ask",
        "Ask the teacher",
        "It answers every prompt with the recipe “Answer”, in the background.",
        "Ask the teacher",
        "Needs prompts and a teacher.",
        "elicit",
        ("project", "teacher"),
    ),
    StepText(
        "review",
        "Review and accept",
        "Only accepted answers are learnt from.",
        "Review answers",
        "Needs answers.",
        "",
        ("ask",),
    ),
    StepText(
        "train",
        "Train the student",
        "About half of the teacher’s layers learn its whole distribution; you watch the gap close.",
        "Start training",
        "Needs accepted answers.",
        "train",
        ("review",),
    ),
    StepText(
        "evaluate",
        "See the gap close",
        "The divergence on rows it never saw, and answers side by side.",
        "Evaluate",
        "Needs a trained student.",
        "evaluate",
        ("train",),
    ),
    StepText(
        "export",
        "Export a GGUF file",
        "Written, read back and compared with the student before it counts.",
        "Export",
        "Needs a trained student.",
        "export",
        ("train",),
    ),
    StepText(
        "chat",
        "Chat with your student",
        "Offline, beside its teacher.",
        "Chat",
        "Needs an exported file.",
        "",
        ("export",),
    ),
)


@dataclass(frozen=True)
class StepState:
    """How a step stands: `note` says what is there or what is missing; `run_id` is its running job, if any."""

    text: StepText
    state: State
    note: str
    run_id: str = ""


def read_steps(project: Project | None, *, chatted: bool) -> list[StepState]:
    """The state of all eight steps. The first that can be done and is not is "next"; others that can are "ready"."""
    done, running = _facts(project, chatted=chatted)
    states: list[StepState] = []
    for text in STEPS:
        state, note, run_id = _state(text, done, running)
        if state == "ready" and not any(earlier.state in ("next", "running") for earlier in states):
            state = "next"
        states.append(StepState(text, state, note, run_id))
    return states


def _state(text: StepText, done: Mapping[str, str], running: Mapping[str, Run]) -> tuple[State, str, str]:
    if text.job in running:
        return "running", "", running[text.job].id
    if text.key in done:
        return "done", done[text.key], ""
    if all(key in done for key in text.after):
        return "ready", "", ""
    return "blocked", text.needs, ""


def _facts(project: Project | None, *, chatted: bool) -> tuple[dict[str, str], dict[str, Run]]:
    """What is done, with a word on it, and the newest running job of each kind."""
    if project is None:
        return {}, {}
    done = {OPEN: ""}
    counts = project.rows.counts()
    prompts = sum(count for (kind, _), count in counts.items() if kind == "prompt")
    responses = sum(count for (kind, _), count in counts.items() if kind == "response")
    accepted = counts.get(("response", "accepted"), 0)
    teachers = project.teachers.list()
    if prompts:
        done["project"] = f"{plural(prompts, 'prompt')} in {project.name}"
    if teachers:
        done["teacher"] = teachers[0].spec.name if len(teachers) == 1 else f"{len(teachers)} teachers"
    if responses:
        done["ask"] = plural(responses, "answer")
    if accepted:
        done["review"] = f"{number(accepted)} accepted"
    runs = project.runs.list()
    for kind, words in (("train", "Trained"), ("evaluate", "Measured"), ("export", "Exported")):
        finished = [run for run in runs if run.kind == kind and run.state == "finished"]
        if finished:
            done[kind] = _result_words(kind, finished[0]) or words
    if chatted:
        done["chat"] = ""
    running = {run.kind: run for run in reversed(runs) if run.state in ACTIVE_STATES}
    return done, running


def _result_words(kind: str, run: Run) -> str:
    result = run.result or {}
    if kind == "train":
        before = (result.get("before") or {}).get("held_out_forward_kl")
        after = (result.get("final") or {}).get("held_out_forward_kl")
        return f"Divergence {before:.2f} → {after:.2f}" if before is not None and after is not None else ""
    if kind == "evaluate":
        figure = result.get("forward_kl")
        return f"Divergence {figure:.2f}" if figure is not None else ""
    files = result.get("files") or []
    return f"{len(files)} files" if len(files) > 1 else ""
