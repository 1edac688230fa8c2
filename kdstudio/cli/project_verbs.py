"""Verbs about a project and its rows: init, import, rows, dataset, teacher, jobs."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kdstudio.cli.output import JsonFlag, ProjectPath, counted, duration, opened, show
from kdstudio.errors import BadInput
from kdstudio.models.endpoint import anthropic_url, base_url, speaks_anthropic
from kdstudio.models.model_folder import folder_teacher
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.teacher_file import gguf_teacher
from kdstudio.project import Project
from kdstudio.project.exchange import FORMATS, export_file, import_file, report_as_dict
from kdstudio.project.table import RowQuery, RowTable

KINDS = {"prompts": "prompt", "responses": "response", "preferences": "preference"}
_STATUSES = ("accepted", "pending", "rejected")
teacher_app = typer.Typer(help="The project's teachers.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command("init")(init)
    app.command("import")(import_)
    app.command("rows")(rows)
    app.command("dataset")(dataset)
    app.command("jobs")(jobs)
    teacher_app.command("add")(teacher_add)
    teacher_app.command("list")(teacher_list)
    app.add_typer(teacher_app, name="teacher")


def kind_of(name: str) -> Any:
    """`prompts` or `prompt` -> `prompt`. Raises `BadInput` for another word."""
    kind = KINDS.get(name, name)
    if kind not in KINDS.values():
        raise BadInput("Unknown kind of row", f"{name!r} is none.", f"Known: {', '.join(KINDS)}.")
    return kind


def init(project: ProjectPath, json: JsonFlag = False) -> None:
    """Make a new project folder."""
    made = Project.create(project)
    folder = made.folder
    made.close()
    show({"project": str(folder)}, as_json=json, text=f"Made {folder}")


def import_(
    project: ProjectPath,
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or plain lines.")],
    as_: Annotated[str, typer.Option("--as", help="prompts, responses or preferences; found out if left away.")] = "",
    map_: Annotated[list[str] | None, typer.Option("--map", help="ours=theirs, for example prompt=question.")] = None,
    json: JsonFlag = False,
) -> None:
    """Import rows from a file; what cannot be read goes to a line-numbered reject file."""
    mapping = dict(_pair(item) for item in map_ or [])
    with opened(project) as target:
        report = import_file(target, file, kind=kind_of(as_) if as_ else None, mapping=mapping or None)
    text = f"{counted(report.rows, 'row')} imported, {report.rejected:,} rejected"
    text += f" (see {report.reject_file})" if report.reject_file else ""
    text += f", {report.duplicates:,} there already" if report.duplicates else ""
    show(report_as_dict(report), as_json=json, text=text)


def _pair(item: str) -> tuple[str, str]:
    ours, separator, theirs = item.partition("=")
    if not separator:
        raise BadInput("Cannot read --map", f"{item!r} is not ours=theirs.", "Write for example --map prompt=question.")
    return ours.strip(), theirs.strip()


def rows(
    project: ProjectPath,
    kind: Annotated[str, typer.Option(help="prompts, responses or preferences.")] = "responses",
    filter_: Annotated[
        str, typer.Option("--filter", help="Status, tag:NAME, differs:KEY (see judges), or words.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 1000,
    json: JsonFlag = False,
) -> None:
    """Print rows, one a line."""
    query = _query(kind_of(kind), filter_)
    with opened(project, read_only=True) as source:
        table = RowTable(source.folder)
        for row in table.page(query, 0, limit, whole=json):
            text = f"{row.id:>7}  {row.status:<9} {_flat(row.prompt, 44):<44}  {_flat(row.response, 80)}"
            show(asdict(row), as_json=json, text=text)


def _query(kind: Any, text: str) -> RowQuery:
    status = text if text in _STATUSES else ""
    tag = text.removeprefix("tag:") if text.startswith("tag:") else ""
    differs = text.removeprefix("differs:").strip('"') if text.startswith("differs:") else ""
    words = "" if status or tag or differs else text
    return RowQuery(kind=kind, status=status, tag=tag, differs=differs, search=words)


def _flat(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def dataset(
    project: ProjectPath,
    out: Annotated[Path, typer.Argument(help="File to write.")],
    format_: Annotated[str, typer.Option("--format", help="Format; see the README.")] = "openai_messages",
    kind: Annotated[str, typer.Option(help="prompts, responses or preferences.")] = "responses",
    status: Annotated[str, typer.Option(help="accepted, pending, rejected, or any.")] = "accepted",
    json: JsonFlag = False,
) -> None:
    """Export rows to a file that other programs read."""
    if status not in (*_STATUSES, "any"):
        raise BadInput("Unknown status", f"{status!r} is none.", f"Known: {', '.join(_STATUSES)}, any.")
    if format_ not in FORMATS:
        raise BadInput("Unknown format", f"There is no format {format_!r}.", f"Known: {', '.join(FORMATS.keys())}.")
    with opened(project, read_only=True) as source:
        count = export_file(source, out, format_, kind=kind_of(kind), status="" if status == "any" else status)
    show({"rows": count, "file": str(out)}, as_json=json, text=f"{counted(count, 'row')} written to {out}")


def teacher_add(
    project: ProjectPath,
    name: Annotated[str, typer.Argument(help="What the teacher is called in this project.")],
    gguf: Annotated[Path | None, typer.Option(help="A local GGUF file.")] = None,
    url: Annotated[str, typer.Option(help="An endpoint: OpenAI-compatible, or Anthropic's.")] = "",
    model: Annotated[str, typer.Option(help="The model's name there.")] = "",
    hf: Annotated[Path | None, typer.Option(help="A local Hugging Face folder.")] = None,
    script: Annotated[Path | None, typer.Option(help="A JSON script of answers (for tests).")] = None,
    kind: Annotated[str, typer.Option(help="The API at --url: openai or anthropic (else told by the URL).")] = "",
    key_name: Annotated[str, typer.Option(help="Name of the key in the keyring or the environment.")] = "",
    json: JsonFlag = False,
) -> None:
    """Add a teacher: a GGUF file, an endpoint, or a folder."""
    given = [item for item in (gguf, url, hf, script) if item]
    if len(given) != 1:
        raise BadInput(
            "Which teacher?", "Give exactly one of --gguf, --url, --hf, --script.", "See: kdstudio teacher add --help"
        )
    capabilities: dict[str, Any] = {}
    if gguf:
        spec, capabilities = gguf_teacher(name, gguf)
    elif hf:
        spec, capabilities = folder_teacher(name, hf)
    elif url:
        if not model:
            raise BadInput("Which model?", f"The endpoint {url} needs a model name.", "Add --model NAME.")
        spec = TeacherSpec(name, _api(url, kind), url=url, model=model, key_name=key_name)
    else:
        file = Path(str(script))
        if not file.is_file():
            raise BadInput("The script is not there", f"{file} is no file.", "Check the path.")
        spec = TeacherSpec(name, "scripted", path=str(file.resolve()))
    with opened(project) as target:
        target.teachers.add(spec, capabilities)
    show({"teacher": asdict(spec), "capabilities": capabilities}, as_json=json, text=f"Added {spec.name} ({spec.kind})")


def _api(url: str, kind: str) -> Literal["openai", "anthropic"]:
    """Whose API an endpoint speaks. What is no URL is refused now, not at the first question. Raises `BadInput`."""
    if kind not in ("", "openai", "anthropic"):
        raise BadInput("Unknown kind of endpoint", f"{kind!r} is none.", "Use --kind openai or --kind anthropic.")
    if kind == "anthropic" or (not kind and speaks_anthropic(base_url(url))):
        anthropic_url(url)
        return "anthropic"
    base_url(url)
    return "openai"


def teacher_list(project: ProjectPath, json: JsonFlag = False) -> None:
    """List the project's teachers."""
    with opened(project, read_only=True) as source:
        for teacher in source.teachers.list():
            spec = teacher.spec
            text = f"{spec.name:<20} {spec.kind:<12} {spec.path or f'{spec.url} {spec.model}'}"
            show({**asdict(spec), "capabilities": teacher.capabilities}, as_json=json, text=text)


def jobs(
    project: ProjectPath,
    action: Annotated[str, typer.Argument(help="list, stop or pause.")] = "list",
    run: Annotated[str, typer.Argument(help="The run's id.")] = "",
    json: JsonFlag = False,
) -> None:
    """List the project's runs; stop or pause one. Works beside an open window."""
    if action not in ("list", "stop", "pause"):
        raise BadInput("Unknown action", f"{action!r} is none.", "Use list, stop ID or pause ID.")
    if action == "list":
        with opened(project, read_only=True) as source:
            for item in source.runs.list():
                done = f"{item.progress.get('done', 0):,}/{item.progress.get('total', 0):,}" if item.progress else ""
                show(
                    asdict(item),
                    as_json=json,
                    text=f"{item.id}  {item.kind:<9} {item.state:<14} {done:<14} {item.title}",
                )
        return
    _ask(project, action, run, as_json=json)


def _ask(path: Path, action: str, run_id: str, *, as_json: bool) -> None:
    """Send a request to a run. The control file is enough, so that it works while the window holds the project."""
    from kdstudio.jobs import folder as run_files

    with opened(path, read_only=True) as source:
        run = source.runs.get(run_id)
        folder = source.runs_folder / run.id
    process = run_files.process_of(folder)
    if process is None:
        raise BadInput(
            "This run is not running", f"{run_id} is {run.state}.", "Resume it with: kdstudio resume PROJECT RUN"
        )
    run_files.request(folder, action)
    began = time.monotonic()
    while action == "stop" and process.is_running() and time.monotonic() - began < 20:
        time.sleep(0.1)
    waited = duration(time.monotonic() - began)
    show({"run": run_id, "asked": action}, as_json=as_json, text=f"Asked {run_id} to {action} ({waited})")
