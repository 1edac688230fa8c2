"""Whole training steps of TRL's DistillationTrainer with its teacher in memory, on completions that are given.

    python -m tests.benchmarks.peers.trl_steps FOLDER plain|checkpointing STEPS

FOLDER holds `student/` and `teacher/` (Hugging Face folders) and `rows.json`: token ids as [[prompt, response], ...].
All rows make one step. `checkpointing` is the trainer's default: activations are formed again in the backward pass.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tests.benchmarks.peers.measured import THREADS, StepClock


class _Tick(TrainerCallback):
    """Tells the clock of every step that is done."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._clock.step_done()


def _tokenizer() -> Any:
    """A stand-in: the rows are token ids already, and only the ids of padding and end are asked for."""
    tokenizers = import_module("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "<start>": 1, "<end>": 2}, unk_token="<pad>"))
    return import_module("transformers").PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
    )


def _settings(folder: Path, rows: int, steps: int, checkpointing: bool) -> Any:
    return import_module("trl").DistillationConfig(
        output_dir=str(folder / "trl"),
        beta=0.0,
        per_device_train_batch_size=rows,
        max_steps=steps,
        gradient_checkpointing=checkpointing,
        learning_rate=1e-4,
        bf16=False,
        use_cpu=True,
        shuffle_dataset=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def main(folder: Path, checkpointing: bool, steps: int) -> None:
    """Train `steps` steps; prints the line of JSON."""
    torch.set_num_threads(THREADS)
    rows = json.loads((folder / "rows.json").read_text())
    clock = StepClock()
    trainer = import_module("trl").DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(folder / "teacher", dtype=torch.float32),
        args=_settings(folder, len(rows), steps, checkpointing),
        train_dataset=import_module("datasets").Dataset.from_list([{"prompt": "given"}] * len(rows)),
        processing_class=_tokenizer(),
        callbacks=[_Tick(clock)],
    )
    prompts, responses = ([row[side] for row in rows] for side in (0, 1))
    # What it would sample is given, as it is to KD Studio: the step is measured, not the generation before it.
    trainer._generate = lambda _: (prompts, responses, None, None, [])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    clock.report(losses[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "checkpointing", int(sys.argv[3]))
