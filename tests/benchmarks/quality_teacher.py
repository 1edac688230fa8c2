"""The teacher of the quality benchmark: trained from nothing on the shipped corpus by the product's own training job.

A byte-level BPE vocabulary is learnt from the corpus, so that its words are one token each; a Llama of 1.1 million
weights learns the chats by cross-entropy, is exported to GGUF, and answers the corpus's prompts at temperature 1. The
answers, not the corpus's own, are what students learn from and are measured on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from kdstudio.distillation.job import run as train
from kdstudio.export.job import run as export
from kdstudio.jobs import folder as run_files
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.project.exchange import import_file
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.signals_job import run as store_signals
from tests.tiny import SPECIAL
from tests.unit.distillation.setting import JournalledJob

VOCABULARY, WIDTH, LAYERS = 896, 128, 6
ANSWER_TOKENS = 24
HELD_OUT = "held_out"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + ': ' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
)
"""Answers begin behind a space, so that a word is the same token wherever it stands."""
TEACHER_RECIPE: dict[str, Any] = {
    "version": 1,
    "recipe": {"id": "teacher", "title": "Teacher"},
    "data": {"status": "any", "held_out_tag": HELD_OUT},
    "objective": [{"name": "supervised"}],
    "optimizer": {"learning_rate": 1.5e-3, "warmup_steps": 30, "weight_decay": 0.1},
    "run": {
        "epochs": 8,
        "rows_per_batch": 16,
        "evaluate_every": 1000,
        "checkpoint_every": 100_000,
        "device": "cpu",
        "precision": "fp32",
    },
}
_JOBS: dict[str, Callable[[JournalledJob], dict[str, Any]]] = {
    "train": train,
    "export": export,
    "signals": store_signals,
}
_CHATS = resources.files("kdstudio").joinpath("resources", "corpus", "chats.jsonl")


@dataclass(frozen=True)
class Chat:
    """One chat of the corpus. `answer` is the only right one unless `task` is "tell"."""

    task: str
    prompt: str
    answer: str
    held_out: bool

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The prompt."""
        return ({"role": "user", "content": self.prompt},)


def corpus() -> list[Chat]:
    """The shipped chats, in the file's order."""
    rows = [json.loads(line) for line in _CHATS.read_text("utf-8").splitlines()]
    texts = [[message["content"] for message in row["messages"]] for row in rows]
    return [
        Chat(row["tags"][1], prompt, answer, row["tags"][0] == HELD_OUT)
        for row, (prompt, answer) in zip(rows, texts, strict=True)
    ]


def make_teacher(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train and export the teacher; its GGUF file in float32, and the training's result."""
    source = {"source": "fresh", "path": str(_write_shape(folder / "shape"))}
    with Project.create(folder / "teacher") as project, resources.as_file(_CHATS) as chats:
        import_file(project, chats)
        made = project.folder
    result = run_job(made, "teacher", "train", {"recipe": {**TEACHER_RECIPE, "student": source}})
    wanted = {"run": "teacher", "quantizations": ["F32"], "name": "Teacher"}
    return Path(run_job(made, "export", "export", wanted)["files"][0]["path"]), result


def run_job(project: Path, name: str, kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Freeze a job into the project and run it in this process; returns its result."""
    folder = project / "runs" / name
    run_files.write_job(folder, run_files.JobFile(kind, parameters))
    return JournalledJob(folder).run(_JOBS[kind])


def _write_shape(folder: Path) -> Path:
    """A folder with the teacher's shape and vocabulary, and no weights: what a fresh model is made from."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": WIDTH // 4,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _learn_vocabulary().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _learn_vocabulary() -> Tokenizer:
    """Every digit is a token of its own, as in SmolLM2; llama.cpp knows that rule."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        show_progress=False,
    )
    turns = [("user", chat.prompt) for chat in corpus()] + [("assistant", chat.answer) for chat in corpus()]
    tokenizer.train_from_iterator([f"{role}: {text}" for role, text in turns], trainer)
    return tokenizer


def described(teacher: Path) -> dict[str, Any]:
    """The teacher as a job's parameter."""
    return {"name": "teacher", "kind": "gguf", "path": str(teacher)}


def project_of_answers(
    folder: Path, teacher: Path, chats: Sequence[Chat], seed: int, held_out: Sequence[bool]
) -> tuple[Path, int]:
    """A project of the chats' prompts with the teacher's answers; returns it and how many were left out.

    Answers to training prompts are drawn by `seed`, those that are `held_out` always by the same numbers. One that did
    not end within `ANSWER_TOKENS`, or says nothing, is no example and is left out.
    """
    requests = [
        Request(
            str(number),
            chat.messages,
            Sampling(ANSWER_TOKENS, temperature=1.0, seed=number if held else (seed << 20) + number),
        )
        for number, (chat, held) in enumerate(zip(chats, held_out, strict=True))
    ]
    model = LlamaTeacher(TeacherSpec("teacher", "gguf", path=str(teacher)))
    found = {int(item.key): item for item in model.generate(requests)}
    model.close()
    whole = [number for number in range(len(chats)) if found[number].finish_reason == "stop" and found[number].text]
    with Project.create(folder) as project:
        project.rows.add_prompts(
            NewPrompt(chat.messages, tags=[HELD_OUT if held else "train"], status="accepted")
            for chat, held in zip(chats, held_out, strict=True)
        )
        project.rows.add_responses(
            NewResponse(number + 1, found[number].text.strip(), finish_reason="stop", status="accepted")
            for number in whole
        )
        return project.folder, len(chats) - len(whole)
