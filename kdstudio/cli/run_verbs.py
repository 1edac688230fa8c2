"""Verbs that start a job and follow it: elicit, signals, train, resume, evaluate, export, chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kdstudio import recipe as recipes
from kdstudio.catalogue.training import ExportTable
from kdstudio.cli.forecast import batch_shares, foretold, rows_to_ask
from kdstudio.cli.output import JsonFlag, ProjectPath, counted, duration, follow, opened, say, show
from kdstudio.cli.teachers_asked import mixture_of, names_of, speakers_of, teacher_of, teachers_of
from kdstudio.cli.terms_words import asked_reason
from kdstudio.cli.trials import trial_in_words
from kdstudio.errors import BadInput
from kdstudio.jobs.requests import elicitation_parameters
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.models.gguf_header import read_header
from kdstudio.project import Project

Settings = Annotated[list[str] | None, typer.Option("--set", help="Change one key, as table.key=value.")]
Limit = Annotated[int, typer.Option(min=0, help="At most this many rows; 0 means all.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; the job goes on by itself.")]
Teachers = Annotated[list[str] | None, typer.Option("--teacher", help="Name of the teacher; again for several.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for name, verb in (
        ("elicit", elicit),
        ("signals", signals),
        ("train", train),
        ("resume", resume),
        ("evaluate", evaluate),
        ("export", export),
        ("chat", chat),
    ):
        app.command(name)(verb)


def run_job(
    path: Path,
    kind: str,
    parameters: dict[str, Any],
    *,
    as_json: bool,
    title: str,
    keys: dict[str, str] | None = None,
    detach: bool = False,
) -> dict[str, Any]:
    """Start a job of an existing project and follow it to its end; returns its result with the run's id."""
    with opened(path) as project:
        return run_job_in(project, kind, parameters, as_json=as_json, title=title, keys=keys, detach=detach)


def run_job_in(
    project: Project,
    kind: str,
    parameters: dict[str, Any],
    *,
    as_json: bool,
    title: str,
    keys: dict[str, str] | None = None,
    detach: bool = False,
    heading: str = "",
    bodies: bool = False,
) -> dict[str, Any]:
    """As `run_job`, in a project that is already open. `heading` is said in place of the title."""
    supervisor = Supervisor(project)
    run_id = supervisor.start(kind, parameters, title=title, secrets=keys, attached=not detach)
    if detach:
        show(
            {"run": run_id},
            as_json=as_json,
            text=f"Run {run_id} goes on by itself; see: kdstudio jobs {project.folder}",
        )
        return {"run": run_id}
    say(f"{heading or title} (run {run_id})")
    return {"run": run_id, **follow(supervisor, project, run_id, as_json=as_json, bodies=bodies)}


def elicit(
    project: ProjectPath,
    recipe: Annotated[str, typer.Option(help="A shipped recipe's id, or a .toml file.")] = "answer",
    teacher: Teachers = None,
    share: Annotated[str, typer.Option(help="Several teachers: spread, route (by tag) or all.")] = "",
    route: Annotated[list[str] | None, typer.Option(help="Prompts with a tag to a teacher, as tag=NAME.")] = None,
    judge: Annotated[str, typer.Option(help="Name of the teacher that judges.")] = "",
    student: Annotated[str, typer.Option(help="Name of the teacher that speaks as the student.")] = "",
    limit: Limit = 0,
    tag: Annotated[str, typer.Option(help="Only prompts with this tag.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    ceiling: Annotated[float, typer.Option(min=0, help="Stop before more US dollars than this are spent.")] = 0.0,
    forecast: Annotated[int, typer.Option(min=0, help="Ask so many rows and say what all of them will cost.")] = 0,
    batch: Annotated[
        bool | None, typer.Option("--batch/--no-batch", help="In batches: at the batch price, answered within a day.")
    ] = None,
    trial: Annotated[int, typer.Option(min=0, help="Show what each step does to so many rows; writes nothing.")] = 0,
    bodies: Annotated[bool, typer.Option("--bodies", help="With --json: what servers sent, raw, as well.")] = False,
    set_: Settings = None,
    detach: Detach = False,
    json: JsonFlag = False,
) -> None:
    """Ask a teacher about the project's prompts and keep its answers as responses."""
    chosen = recipes.override(recipes.find_elicitation_recipe(recipe), set_ or [])
    with opened(project) as target:
        asked, keys = speakers_of(target, teacher or [], share=share, routes=route or [], judge=judge, student=student)
        count = min(forecast, limit or forecast) or limit
        parameters = asked | elicitation_parameters(
            chosen, asked["teacher"], limit=count, tag=tag, seed=seed, trial=trial
        )
        parameters |= {"ceiling": ceiling} if ceiling else {}
        in_batches = parameters if batch is None else parameters | {"batch": batch}
        parameters = in_batches | {"batch": False} if forecast else in_batches
        rows = rows_to_ask(target, parameters, limit) if forecast else 0
        result = run_job_in(
            target,
            "elicit",
            parameters,
            as_json=json,
            title=f"{chosen.recipe.title} by {names_of(asked)}",
            keys=keys,
            detach=detach and not forecast,
            bodies=bodies,
        )
        if forecast:
            found = foretold(target, result, rows, batch_shares(in_batches))
            show({"event": "forecast", **found}, as_json=json, text=str(found["text"]))
            return
        if trial and not json and not detach:
            show(result, as_json=False, text=trial_in_words(target, str(result["run"])))
            return
    if not json and not detach:
        text = f"{counted(result.get('rows', 0), 'row')}, {result.get('tokens', 0):,} tokens"
        text += f" at {result.get('tokens_per_second', 0):,.1f} tokens/s"
        if spend := result.get("spend", 0.0):
            text += f", ${spend:,.4f}"
        if rejected := result.get("rejected", 0):
            text += f"; {rejected:,} rejected (why: kdstudio rows PROJECT --filter rejected --json)"
        show(result, as_json=False, text=text)


def signals(
    project: ProjectPath,
    teacher: Teachers = None,
    weight: Annotated[list[float] | None, typer.Option(help="Several teachers: the weight of each.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1024, help="Log-probs stored for each token.")] = 50,
    tail: Annotated[
        Literal["bucket", "shaped"], typer.Option(help="Of all others: their mass, or its shape too.")
    ] = "bucket",
    draws: Annotated[int, typer.Option(min=0, max=1024, help="Store so many random draws instead; 0: top-k.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    limit: Limit = 0,
    detach: Detach = False,
    json: JsonFlag = False,
) -> None:
    """Store the teacher's signals for the accepted responses."""
    with opened(project) as target:
        asked, keys = mixture_of(target, teacher or [], weight or [])
        parameters = {**asked, "top_k": top_k, "tail": tail, "draws": draws, "seed": seed, "limit": limit}
        result = run_job_in(
            target, "signals", parameters, as_json=json, title=f"Signals of {names_of(asked)}", keys=keys, detach=detach
        )
    if not json and not detach:
        mass, size = result.get("captured_mass", 0.0), result.get("bytes_per_token", 0.0)
        text = f"{result.get('tokens', 0):,} tokens at {result.get('tokens_per_second', 0):,.0f} tokens/s"
        show(result, as_json=False, text=f"{text}, {mass:.2%} of the mass, {size:.0f} bytes a token")


def train(
    project: ProjectPath,
    recipe: Annotated[str, typer.Argument(help="A shipped training recipe's id, or a .toml file.")],
    set_: Settings = None,
    reason: Annotated[str, typer.Option(help="Why you may train on rows whose terms of use restrict it.")] = "",
    detach: Detach = False,
    json: JsonFlag = False,
) -> None:
    """Train a student as the recipe says. The same recipe again continues a broken run."""
    chosen = recipes.override(recipes.find_training_recipe(recipe), set_ or [])
    with opened(project) as target:
        parameters, keys = training_parameters(target, chosen)
        parameters |= asked_reason(target, chosen, parameters, reason)
        result = run_job_in(
            target, "train", parameters, as_json=json, title=chosen.recipe.title, keys=keys, detach=detach
        )
    if not json and not detach:
        text = f"Run {result['run']}: {result.get('steps')} steps in {duration(result.get('seconds', 0))}"
        show(result, as_json=False, text=f"{text}; {_figures(result.get('final', {}))}")


def training_parameters(project: Project, chosen: recipes.TrainingRecipe) -> tuple[dict[str, Any], dict[str, str]]:
    """The frozen parameters of a training job, and its secrets."""
    needs_teacher = chosen.teacher.name or chosen.student.source == "teacher"
    ask = "Set teacher.name in the recipe, or add --set teacher.name=NAME"
    spec, keys = teacher_of(project, chosen.teacher.name, ask) if needs_teacher else ({}, {})
    weighed = teachers_of(project, list(chosen.teacher.weights), ask)[0] if chosen.teacher.weights else {}
    described = {"recipe": chosen.model_dump(mode="json"), "recipe_hash": recipes.recipe_hash(chosen)}
    return {**weighed, **described, "teacher": spec}, keys


def _figures(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items() if isinstance(value, int | float)
    )


def resume(
    project: ProjectPath,
    run: Annotated[str, typer.Argument(help="The run's id.")],
    detach: Detach = False,
    json: JsonFlag = False,
) -> None:
    """Continue a paused, stopped or broken run where it left off."""
    with opened(project) as target:
        supervisor = Supervisor(target)
        supervisor.resume(run, attached=not detach)
        if detach:
            show({"run": run}, as_json=json, text=f"Run {run} goes on by itself")
            return
        result = follow(supervisor, target, run, as_json=json)
    if not json:
        show(result, as_json=True)


def evaluate(
    project: ProjectPath,
    what: Annotated[str, typer.Argument(help="A run's id, or a GGUF file.")],
    teacher: Annotated[str, typer.Option(help="Name of the teacher.")] = "",
    limit: Limit = 0,
    json: JsonFlag = False,
) -> None:
    """Measure the gap between a student and its teacher on the held-out rows."""
    with opened(project) as target:
        spec, keys = teacher_of(target, teacher)
        is_file = what.endswith(".gguf")
        if is_file:
            read_header(Path(what))
        else:
            target.runs.get(what)
        student = {"gguf": str(Path(what).absolute())} if is_file else {"run": what}
        parameters = {**student, "teacher": spec, "limit": limit, "samples": 6}
        result = run_job_in(
            target, "evaluate", parameters, as_json=False, title=f"Evaluate {Path(what).name}", keys=keys
        )
    show(result, as_json=json, text="\n".join([_figures(result), *_by_tag(result.get("by_tag") or {})]))


def _by_tag(table: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each tag, and what the trainer saw on its rows before and after."""
    lines = []
    for tag, figures in table.items():
        lines.append(f"{tag}: {_figures(figures)}")
        lines += [f"  {name}: {_figures(figures[name])}" for name in ("before", "after") if name in figures]
    return lines


def export(
    project: ProjectPath,
    run: Annotated[str, typer.Argument(help="The training run's id.")],
    quantize: Annotated[str, typer.Option(help="GGUF formats, separated by commas.")] = "F16,Q8_0",
    name: Annotated[str, typer.Option(help="The model's name; empty takes the recipe's title.")] = "",
    safetensors: Annotated[bool, typer.Option("--safetensors", help="Also a folder for transformers.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write the student as GGUF files, each loaded again and compared with what was trained."""
    wanted = [item.strip() for item in quantize.split(",") if item.strip()]
    try:
        formats = ExportTable(quantizations=tuple(wanted)).quantizations
    except ValueError as error:
        raise BadInput(
            "Unknown quantization",
            str(error).split("Value error, ")[-1].split(" [type")[0],
            "For example: --quantize Q8_0,Q4_K_M",
        ) from error
    with opened(project) as target:
        target.runs.get(run)
        parameters = {"run": run, "quantizations": list(formats), "name": name, "safetensors": safetensors}
        result = run_job_in(target, "export", parameters, as_json=False, title=f"Export {name or run}")
    lines = [_exported_line(item) for item in result.get("files", [])]
    show(result, as_json=json, text="\n".join(lines))


def _exported_line(item: dict[str, Any]) -> str:
    agreement = f"top-1 {item.get('top1_agreement', 0):.2%}  KL {item.get('kl', 0):.2e}"
    verdict = "passed" if item["passed"] else "MISSED"
    return f"{item['quantization']:<7} {item['bytes'] / 1e6:8.1f} MB  {agreement}  {verdict}  {item['path']}"


def chat(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    prompt: Annotated[str, typer.Option(help="Ask this and leave; without it, a conversation.")] = "",
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 always takes the likeliest token.")] = 0.0,
    json: JsonFlag = False,
) -> None:
    """Talk to a GGUF file, offline."""
    read_header(file)
    from kdstudio.jobs.chat import chat_once

    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    while True:
        text = prompt or _ask_person()
        if not text:
            return
        messages.append({"role": "user", "content": text})
        answer = chat_once(file, messages, max_tokens=max_tokens, temperature=temperature)
        show(answer, as_json=json, text=str(answer["text"]))
        if prompt:
            return
        messages.append({"role": "assistant", "content": answer["text"]})


def _ask_person() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
