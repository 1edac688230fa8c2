"""Writes and checks one format after the other in a temporary folder; quantizations share one F16 or F32 file."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from kdstudio import files, settings
from kdstudio.distillation.reporter import Reporter
from kdstudio.errors import KnownError, Stopped
from kdstudio.evaluation.held_out import MeasuredRows
from kdstudio.evaluation.logits import Pair
from kdstudio.evaluation.torch_logits import TorchLogits, load_exported
from kdstudio.export.certificate import MAXIMUM_POSITIONS, Certificate, certify, write_certificate
from kdstudio.export.formats import FOLDER_FORMAT, is_direct, steps_of
from kdstudio.export.gguf import Identity, write_gguf
from kdstudio.export.quantize import quantize
from kdstudio.export.safetensors import write_folder
from kdstudio.models.conversation import Tokenizer, encode_conversation
from kdstudio.students.save import open_tokenizer

_TOKENIZED_ROWS = 64
_PARTS = 100  # of progress, for each file written and each file checked


@dataclass
class Production:
    """One export. `folder` is the temporary one, `aside` the path (without suffix) where a failed file is kept."""

    job: Reporter
    student: Path
    name: str
    identity: Identity
    rows: MeasuredRows
    trained: TorchLogits
    folder: Path
    aside: Path
    wanted: list[str] = field(default_factory=list)
    stages: int = 0
    done: int = 0
    same_tokens: bool | None = None
    base: Path | None = None

    def run(self, wanted: list[str]) -> list[Certificate]:
        """Write every format with its certificate. Raises `KnownError` when a check fails, `Stopped` on request."""
        steps = steps_of(wanted)
        self.wanted, self.stages = wanted, 2 * len(steps)
        pairs = _pairs(self.rows)
        certificates: list[Certificate] = []
        for step in steps:
            path = self._write(step)
            certificate = self._check(step, path, pairs)
            if step in wanted:
                write_certificate(certificate, self.folder)
                certificates.append(certificate)
        if self.base is not None and self.base.name.startswith(files.TEMPORARY_MARK):
            self.base.unlink()
        return certificates

    def _path(self, step: str) -> Path:
        if step not in self.wanted:  # a file of that format may be there from an earlier export
            return self.folder / f"{files.TEMPORARY_MARK}{self.name}-{step}.gguf"
        return self.folder / (f"{self.name}-safetensors" if step == FOLDER_FORMAT else f"{self.name}-{step}.gguf")

    def _progress(self, share: float, stage: str) -> None:
        if not self.job.continues():
            raise Stopped("Nothing was exported.")
        total = self.stages * _PARTS
        self.job.progress(min(self.done * _PARTS + int(share * _PARTS), total), total, unit="parts", stage=stage)

    def _write(self, step: str) -> Path:
        path, stage = self._path(step), f"write {step}"
        self._progress(0.0, stage)
        if step == FOLDER_FORMAT:
            write_folder(self.student, path)
        elif is_direct(step):
            write_gguf(
                self.student, path, step, self.identity, progress=lambda done, all_: self._progress(done / all_, stage)
            )
            self.base = path if self.base is None or step == "F16" else self.base
        elif self.base is not None:
            quantize(self.base, path, step, threads=settings.thread_count())
        self.done += 1
        return path

    def _check(self, step: str, path: Path, pairs: list[Pair]) -> Certificate:
        stage = f"check {step}"
        certificate = certify(
            path,
            step,
            self.trained,
            pairs,
            text=self.rows.text,
            same_tokens=self._cuts_the_same(path),
            written=TorchLogits(load_exported(path)) if step == FOLDER_FORMAT else None,
            progress=lambda rows, _positions: self._progress(rows / len(pairs), stage),
        )
        self.done += 1
        if not certificate.passed:
            raise self._failed(path, certificate)
        return certificate

    def _cuts_the_same(self, path: Path) -> bool:
        """Whether the written tokenizer cuts real rows into the ids that the student was trained on.

        All GGUF files of one export carry the same tokenizer: it is tried once.
        """
        if self.same_tokens is None or path.is_dir():
            written = open_tokenizer(path)
            tried = range(min(_TOKENIZED_ROWS, len(self.rows.examples)))
            self.same_tokens = all(self._row_cuts_the_same(written, index) for index in tried)
        return self.same_tokens

    def _row_cuts_the_same(self, written: Tokenizer, index: int) -> bool:
        example = self.rows.examples[index]
        again = encode_conversation(written, self.rows.messages[example.prompt_id], example.response)
        prompt, response = example.prompt_ids.tolist(), example.response_ids.tolist()
        return bool(again.prompt_ids == prompt and again.response_ids == response)

    def _failed(self, path: Path, certificate: Certificate) -> KnownError:
        """Keep the file where nobody takes it for a good one, and say what was found."""
        aside = self.aside.with_name(f"{self.aside.name}-{certificate.quantization}.failed")
        if aside.is_dir():
            shutil.rmtree(aside)
        path.replace(aside)
        files.write_text(aside.with_name(f"{aside.name}.json"), json.dumps(certificate.as_dict(), indent=2))
        if certificate.same_tokens:
            found = (
                f"finds the same token likeliest as the student at {certificate.top1_agreement:.2%} of "
                f"{certificate.positions:,} positions; {certificate.required_agreement:.0%} are required"
            )
        else:
            found = "cuts text into other tokens than the student was trained on"
        return KnownError(
            "The export failed its check",
            f"The {certificate.quantization} file {found}.",
            f"It was kept as {aside} for a report; nothing else was written.",
        )


def _pairs(rows: MeasuredRows) -> list[Pair]:
    """Rows until 2,000 positions are reached."""
    chosen: list[Pair] = []
    positions = 0
    for pair in rows.pairs:
        if positions >= MAXIMUM_POSITIONS:
            break
        chosen.append(pair)
        positions += len(pair[1])
    return chosen
