"""A local GGUF teacher through llama.cpp: answers and signals, many at once, in a child process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import psutil

from kdstudio import settings
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.architectures import student_obstacle
from kdstudio.models.gguf_header import GGUFHeader, fingerprint, read_header
from kdstudio.teachers.base import Capabilities, Completion, Request, TeacherSpec
from kdstudio.teachers.dequantised import fast_copy
from kdstudio.teachers.llama_generation import Generation, OnText
from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.llama_native import NativeContext, NativeModel
from kdstudio.teachers.llama_scoring import Pair, Part, Reduce, Scoring
from kdstudio.teachers.llama_vocab import LlamaTokenizer
from kdstudio.teachers.signals import SparseSignal, concatenate

REQUESTS_AT_ONCE = 32
SCORED_AT_ONCE = 64
BATCH_TOKENS = 512
_OUTPUT_BYTES = 128 << 20  # of logits in one decode
_MEMORY_SHARE = 4  # the cache of keys and values may take a quarter of the free memory
_FALLBACK_CONTEXT = 4096
_CELL_STEP = 256  # llama.cpp rounds a context up to this


def _never() -> bool:
    return False


class LlamaTeacher:
    """Implements `base.Teacher`.

    Options: `context_tokens`, `requests_at_once`, `threads`, `dequantise` (default true: run a small teacher in a slow
    format from a 16-bit copy), `precise` (default false: see `NativeContext`).

    `notes` says what the person should know about how the model is run. Not safe to call from several threads at once.
    Raises `BadInput` for a file that is no usable model and `KnownError` when llama.cpp cannot load it.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        path = Path(spec.path)
        self.spec, self.header = spec, _checked(path)
        self.threads = int(spec.options.get("threads") or settings.thread_count())
        self.at_once = max(1, min(int(spec.options.get("requests_at_once") or REQUESTS_AT_ONCE), BATCH_TOKENS // 2))
        self.notes: list[str] = []
        source = path
        if spec.options.get("dequantise", True) and (copy := fast_copy(path, self.header)) is not None:
            source = copy.path
            self.notes.append(copy.note)
        self._model = NativeModel(source)
        if llama_cpp.llama_model_has_encoder(self._model.pointer):
            self._model.close()
            raise BadInput(
                "This model does not chat", f"{path.name} has an encoder.", "Choose a decoder, such as Llama."
            )
        self.tokenizer = LlamaTokenizer(path, model=self._model, header=self.header)
        self._maximum_cells = _maximum_cells(self.header)
        self._shares = not (
            llama_cpp.llama_model_is_recurrent(self._model.pointer)
            or llama_cpp.llama_model_is_hybrid(self._model.pointer)
        )
        self._context: NativeContext | None = None
        self._context_outputs = 0
        self.capabilities = self._capabilities()
        self._generation: Generation | None = None

    def _capabilities(self) -> Capabilities:
        context = self.header.context or _FALLBACK_CONTEXT
        wish = int(self.spec.options.get("context_tokens") or context)
        return Capabilities(
            generate=True,
            top_k_log_probs=True,
            full_distributions=not student_obstacle(self.header),
            context_tokens=min(context, wish, self._maximum_cells),
            vocabulary_size=self._model.vocabulary_size,
            fingerprint=fingerprint(self.header.path),
            tokenizer=self.tokenizer.fingerprint,
            terms=self.header.license,
        )

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = _never, on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """As `base.Teacher.generate`. `on_text(key, piece)` is called with each new piece of an answer."""
        if self._generation is None:
            self._generation = Generation(
                self.tokenizer, self.capabilities.context_tokens, self.at_once, self._shares, self._for_answers
            )
        return self._generation.run(requests, stop, on_text)

    def score(
        self, sequences: Sequence[Pair], top_k: int, *, stop: Callable[[], bool] = _never
    ) -> Iterator[tuple[int, SparseSignal]]:
        """As `base.Teacher.score`. Raises `KnownError` for a row longer than the context, naming both sizes."""
        kept = self.read(sequences, lambda logits, labels, *_: signal_of(logits, labels, top_k), stop=stop)
        return ((index, concatenate(parts)) for index, parts in kept)

    def read(
        self, sequences: Sequence[Pair], reduce: Reduce[Part], *, stop: Callable[[], bool] = _never
    ) -> Iterator[tuple[int, list[Part]]]:
        """As `score`, but what is kept of the exact distributions is what `reduce` makes of them, in parts."""
        if not sequences:
            return iter(())
        longest = max(len(prompt) + len(response) for prompt, response in sequences)
        if longest > self.capabilities.context_tokens:
            raise KnownError(
                "A row does not fit the teacher",
                f"It has {longest:,} tokens; the teacher reads {self.capabilities.context_tokens:,}.",
                "Leave out longer rows, or choose a teacher with a larger context.",
            )
        outputs = max(32, min(BATCH_TOKENS, _OUTPUT_BYTES // (4 * self._model.vocabulary_size)))
        context = self._opened(2 * longest + BATCH_TOKENS, SCORED_AT_ONCE, outputs)
        self._generation = None  # its memory was cleared
        return Scoring(context, reduce, self._shares, stop).run(sequences)

    def _for_answers(self, cells: int, sequences: int) -> NativeContext:
        return self._opened(min(cells, max(self._maximum_cells, _CELL_STEP)), sequences, self.at_once)

    def _opened(self, cells: int, sequences: int, outputs: int) -> NativeContext:
        """The context at hand if it has enough of everything, else a new one in its place."""
        held = self._context
        if held and held.cells >= cells and held.sequences >= sequences and held.outputs == outputs:
            return held
        if held is not None:
            held.close()
        rounded = -(-cells // _CELL_STEP) * _CELL_STEP
        self._context = NativeContext(
            self._model,
            cells=rounded,
            sequences=sequences,
            batch_tokens=BATCH_TOKENS,
            outputs=outputs,
            threads=self.threads,
            precise=bool(self.spec.options.get("precise")),
        )
        return self._context

    def close(self) -> None:
        """Free the model."""
        if self._context is not None:
            self._context.close()
            self._context = None
        self._generation = None
        self._model.close()


def _checked(path: Path) -> GGUFHeader:
    header = read_header(path)
    if not header.tensors:
        raise BadInput("This GGUF file holds no weights", f"{path.name} is a vocabulary.", "Choose the model itself.")
    return header


def _maximum_cells(header: GGUFHeader) -> int:
    """How many tokens of keys and values (16 bits each) fit a quarter of the free memory."""
    head = header.hidden // max(header.heads, 1)
    key, value = (_size(header.of_architecture(f"attention.{name}_length"), head) for name in ("key", "value"))
    bytes_each = max(1, header.layers * header.kv_heads * (key + value) * 2)
    return max(_CELL_STEP, int(psutil.virtual_memory().available) // _MEMORY_SHARE // bytes_each)


def _size(stated: Any, fallback: int) -> int:
    return stated if isinstance(stated, int) and stated > 0 else fallback
