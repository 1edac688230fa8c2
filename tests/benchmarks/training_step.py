"""Whole training steps on the sample teacher: ours with stored signals or text alone, TRL's with the teacher beside.

A student of 8 of SmolLM2-135M's 30 layers, 4 rows of 512 prompt and 512 response tokens a step, float32, two threads,
AdamW. Both sides start from the same weights and read the same token ids; what TRL would first let the student write is
given to it, so that its step has no generation in it.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdstudio.errors import KnownError
from kdstudio.models.conversation import Conversation, Tokenizer, encode_conversation
from kdstudio.models.discovery import sample_teacher
from kdstudio.networks.network import assemble
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.students.build import load_source, source_config
from kdstudio.students.prune import choose_layers
from kdstudio.students.save import open_tokenizer, save_student
from tests.benchmarks.figures import Figure
from tests.benchmarks.measuring import Command, in_turns

LAYERS, ROWS, PROMPT_TOKENS, RESPONSE_TOKENS = 8, 4, 512, 512
ROUNDS, STEPS = 2, 3
WORDS = (
    "time people year way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work night point home water room mother area money story fact"
)


def training_steps() -> Iterator[Figure]:
    """Seconds a step and the process's peak memory."""
    where = f"training step, {ROWS} rows of {PROMPT_TOKENS} + {RESPONSE_TOKENS} tokens"
    print(f"  {where}", flush=True)
    teacher = sample_teacher()
    if teacher is None:
        raise KnownError("The sample teacher is missing", "The benchmark needs it.", "Run: kdstudio demo")
    with tempfile.TemporaryDirectory(prefix="kdstudio-bench-") as name:
        folder = Path(name)
        _write_models(folder, teacher)
        project = _write_project(folder, teacher)
        commands = {
            "ours, stored KL": _ours(project, teacher, "forward_kl"),
            "ours, cross-entropy": _ours(project, teacher, "supervised"),
            "ours, stored KL, checkpointing": _ours(project, teacher, "forward_kl", checkpointing=True),
            "TRL": _peer(folder, "plain"),
            "TRL, checkpointing": _peer(folder, "checkpointing"),
        }
        found = in_turns(commands, ROUNDS, "total_bytes")
    ours, plain, frugal, trl, default = (found[name] for name in commands)
    fast, lean = "TRL, no gradient checkpointing", "TRL as it comes"
    yield Figure(f"{where}, stored KL", ours.median, "s", ">= 2x", trl.median, fast)
    yield Figure(f"{where}, stored KL", ours.median, "s", ">= 2x", default.median, lean)
    yield Figure(f"{where}, stored KL: of the cores", ours.of_cores, "s", "", trl.of_cores, fast)
    yield Figure(f"{where}: peak memory", ours.megabytes, "MB", "<= 50 %: 2x", trl.megabytes, fast)
    yield Figure(f"{where}: peak memory", ours.megabytes, "MB", "<= 50 %: 2x", default.megabytes, lean)
    yield Figure(f"{where}, both checkpointing", frugal.median, "s", ">= 2x", default.median, lean)
    yield Figure(
        f"{where}, both checkpointing: peak memory", frugal.megabytes, "MB", "<= 50 %: 2x", default.megabytes, lean
    )
    text = "our own step with cross-entropy"
    yield Figure(f"{where}, stored KL", ours.median, "s", "<= 1.15x the time: 0.87x", plain.median, text)
    yield Figure(f"{where}, stored KL: of the cores", ours.of_cores, "s", "", plain.of_cores, text)


def _ours(project: Path, teacher: Path, objective: str, *, checkpointing: bool = False) -> Command:
    settings = (project, teacher, objective, LAYERS, ROWS, STEPS, int(checkpointing))
    return Command("tests.benchmarks.our_steps", settings, peer=False)


def _peer(folder: Path, mode: str) -> Command:
    return Command("tests.benchmarks.peers.trl_steps", (folder, mode, STEPS), peer=True)


def _write_models(folder: Path, teacher: Path) -> None:
    """Teacher and student as folders that transformers reads, in float32."""
    total = source_config(teacher)["num_hidden_layers"]
    for name, count in (("teacher", total), ("student", LAYERS)):
        config, state = load_source(teacher, choose_layers(total, layer_count=count))
        save_student(folder / name, assemble(config, state, teacher.name), config, teacher, {})


def _write_project(folder: Path, teacher: Path) -> Path:
    """The rows, for us as text in a project with stored signals, for TRL as token ids."""
    tokenizer, generator = open_tokenizer(teacher), random.Random(0)
    rows = [_row(tokenizer, generator) for _ in range(ROWS)]
    ids = [[conversation.prompt_ids, conversation.response_ids] for _, _, conversation in rows]
    (folder / "rows.json").write_text(json.dumps(ids))
    with Project.create(folder / "bench.kdstudio") as project:
        project.rows.add_prompts(NewPrompt(_messages(prompt), status="accepted") for prompt, _, _ in rows)
        project.rows.add_responses(
            NewResponse(number + 1, response, finish_reason="stop", status="accepted")
            for number, (_, response, _) in enumerate(rows)
        )
        made = project.folder
    for arguments in (
        ("teacher", "add", made, "teacher", "--gguf", teacher, "--json"),
        ("signals", made, "--teacher", "teacher", "--top-k", 50, "--json"),
    ):
        Command("kdstudio", arguments, peer=False).run()
    return made


def _messages(prompt: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": prompt},)


def _row(tokenizer: Tokenizer, generator: random.Random) -> tuple[str, str, Conversation]:
    """Prompt and response of exactly so many tokens, from words that are one token each."""
    words = [word for word in WORDS.split() if len(tokenizer.encode(f" {word}", special=False)) == 1]
    prompt, response = ([*generator.choices(words, k=count)] for count in (PROMPT_TOKENS, RESPONSE_TOKENS))
    found = encode_conversation(tokenizer, list(_messages(" ".join(prompt))), " ".join(response))
    prompt = prompt[len(found.prompt_ids) - PROMPT_TOKENS :]  # the template's own tokens are part of the count
    response = response[len(found.response_ids) - RESPONSE_TOKENS :]
    found = encode_conversation(tokenizer, list(_messages(" ".join(prompt))), " ".join(response))
    if (len(found.prompt_ids), len(found.response_ids)) != (PROMPT_TOKENS, RESPONSE_TOKENS):
        raise KnownError("The rows cannot be made", "The teacher's tokenizer divides the words in another way.")
    return " ".join(prompt), " ".join(response), found
