"""A local teacher through torch: a Hugging Face folder, or a GGUF file dequantised, in a child process.

The same protocol, signals and vault as the llama.cpp teacher's; beside it for what llama.cpp does not do: run on a GPU
that only torch knows, or take a folder as it is. Only the architectures of `networks.network`, and never the folder's
own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import psutil
import torch
from transformers import logging as transformers_logging

from kdstudio import files, settings
from kdstudio.errors import KnownError
from kdstudio.models.gguf_header import read_header
from kdstudio.models.model_folder import stated_license, weights_fingerprint
from kdstudio.models.shape import parameter_count, shape_of_folder
from kdstudio.networks.devices import choose_device, choose_precision
from kdstudio.networks.source import load_network
from kdstudio.teachers.base import Capabilities, Completion, Request, TeacherSpec
from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.llama_scoring import Reduce
from kdstudio.teachers.signals import SparseSignal, concatenate
from kdstudio.teachers.tokenizers import open_tokenizer
from kdstudio.teachers.transformers_generation import OnText, TorchGeneration
from kdstudio.teachers.transformers_signals import Pair, Part, TorchScoring, tensor_signal

REQUESTS_AT_ONCE = 32
_MEMORY_SHARE = 4  # keys and values may take a quarter of the free memory
_FALLBACK_CONTEXT = 4096


def _never() -> bool:
    return False


class TransformersTeacher:
    """Implements `base.Teacher`.

    Options: `context_tokens`, `requests_at_once`, `threads`, `device` (auto, cpu, cuda, mps) and `precision` (auto,
    fp32, bf16: auto takes bf16 on a GPU that has it, and float32 on a CPU, where it is exact).

    Not safe to call from several threads at once. Raises `BadInput` for a source that is no model we know and
    `KnownError` when it does not fit the memory.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        self.spec, source = spec, Path(spec.path).expanduser()
        torch.set_num_threads(int(spec.options.get("threads") or settings.thread_count()))
        self.device = torch.device(choose_device(str(spec.options.get("device") or "auto")))
        short = self._precision() == "bf16"
        self.notes = [f"Its weights run in 16 bits (bf16) on {self.device}."] if short else []
        _require_memory(source, self.device, 2 if short else 4)
        network, config = load_network(source, torch.bfloat16 if short else torch.float32)
        self.network = network.to(self.device).requires_grad_(False).eval()  # type: ignore[arg-type]
        self.tokenizer = open_tokenizer(source, config["vocab_size"])
        context = int(config.get("max_position_embeddings") or _FALLBACK_CONTEXT)
        wish = int(spec.options.get("context_tokens") or context)
        self.capabilities = Capabilities(
            generate=True,
            top_k_log_probs=True,
            full_distributions=True,
            hidden_states=True,
            answer_log_probs=True,
            context_tokens=min(context, wish),
            vocabulary_size=int(config["vocab_size"]),
            fingerprint=weights_fingerprint(source),
            tokenizer=self.tokenizer.fingerprint,
            terms=stated_license(source),
        )
        at_once = max(1, int(spec.options.get("requests_at_once") or REQUESTS_AT_ONCE))
        self._generation = TorchGeneration(
            self.network, self.tokenizer, self.capabilities.context_tokens, at_once, self.device, self._free_bytes
        )

    def _precision(self) -> str:
        wanted = str(self.spec.options.get("precision") or "auto")
        return "fp32" if wanted == "auto" and self.device.type == "cpu" else choose_precision(wanted, self.device.type)

    def _free_bytes(self) -> int:
        """What a batch's keys and values may take."""
        return _free(self.device) // _MEMORY_SHARE

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = _never, on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """As `base.Teacher.generate`. `on_text(key, piece)` is called with each new piece of an answer."""
        return self._generation.run(requests, stop, on_text)

    def score(
        self, sequences: Sequence[Pair], top_k: int, *, stop: Callable[[], bool] = _never
    ) -> Iterator[tuple[int, SparseSignal]]:
        """As `base.Teacher.score`. Raises `KnownError` for a row longer than the context, naming both sizes."""
        if self.device.type == "cpu":  # ten times as fast as a sort of the vocabulary
            kept = self.read(sequences, lambda logits, labels, *_: signal_of(logits, labels, top_k), stop=stop)
        else:
            scoring = self._scoring(sequences, stop)
            kept = scoring.run(sequences, lambda logits, labels, *_: tensor_signal(logits, labels, top_k))
        return ((index, concatenate(parts)) for index, parts in kept)

    def read(
        self, sequences: Sequence[Pair], reduce: Reduce[Part], *, stop: Callable[[], bool] = _never
    ) -> Iterator[tuple[int, list[Part]]]:
        """As `score`, but what is kept of the exact distributions is what `reduce` makes of them, in parts."""
        return self._scoring(sequences, stop).run(
            sequences, lambda logits, labels, index, first: reduce(logits.cpu().numpy(), labels, index, first)
        )

    def _scoring(self, sequences: Sequence[Pair], stop: Callable[[], bool]) -> TorchScoring:
        longest = max((len(prompt) + len(response) for prompt, response in sequences), default=0)
        if longest > self.capabilities.context_tokens:
            raise KnownError(
                "A row does not fit the teacher",
                f"It has {longest:,} tokens; the teacher reads {self.capabilities.context_tokens:,}.",
                "Leave out longer rows, or choose a teacher with a larger context.",
            )
        return TorchScoring(self.network, self.device, stop)

    def close(self) -> None:
        """Free the model."""
        self._generation.reader = None
        self.network.to("meta")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _require_memory(source: Path, device: torch.device, bytes_each: int) -> None:
    parameters = parameter_count(shape_of_folder(source)) if source.is_dir() else read_header(source).parameters
    needed, free = parameters * bytes_each, _free(device)
    if needed > free:
        raise KnownError(
            "The teacher does not fit the memory",
            f"{source.name} takes {files.readable_bytes(needed)} here; {files.readable_bytes(free)} are free.",
            "Add a quantized GGUF file of the model instead, which llama.cpp runs as it is.",
        )
