"""A local GGUF teacher through llama.cpp: answers and signals, many at once, in a child process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import llama_cpp

from kdstudio import settings
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.architectures import student_obstacle
from kdstudio.models.gguf_header import GGUFHeader, fingerprint, read_header
from kdstudio.teachers.base import Capabilities, Completion, Request, TeacherSpec
from kdstudio.teachers.dequantised import exact_copy, fast_copy
from kdstudio.teachers.llama_forms import AnswerForms
from kdstudio.teachers.llama_generation import Generation, OnText
from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.llama_memory import BUDGET, CELL_STEP, chosen_gpu_layers, need_of
from kdstudio.teachers.llama_native import NativeContext, NativeModel
from kdstudio.teachers.llama_scoring import Pair, Part, Reduce, Scoring
from kdstudio.teachers.llama_vocab import LlamaTokenizer
from kdstudio.teachers.signals import SparseSignal, concatenate

REQUESTS_AT_ONCE = 32
SCORED_AT_ONCE = 64
BATCH_TOKENS = 512
_OUTPUT_BYTES = 128 << 20  # of logits in one decode
_FALLBACK_CONTEXT = 4096


def _never() -> bool:
    return False


class LlamaTeacher:
    """Implements `base.Teacher`.

    Options: `context_tokens`, `requests_at_once`, `threads`, `dequantise` (default true: run a small teacher in a slow
    format from a 16-bit copy), `n_gpu_layers` (else what free GPU memory allows), `precise` (default false). Without
    `precise` the rounding of 16 bits depends on what else is in a decode, which changes a token of 2 to 4 in 32 answers
    of 64 tokens between one, 7 and 32 requests at once; with it the same seed gives the same text (in all we measured).

    `notes` says what the person should know about how the model is run. Not safe to call from several threads at once.
    Raises `BadInput` for a file that is no usable model and `KnownError` when llama.cpp cannot load it or there is not
    enough memory.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        path = Path(spec.path)
        self.spec, self.header = spec, _checked(path)
        self.threads = int(spec.options.get("threads") or settings.thread_count())
        self.at_once = max(1, min(int(spec.options.get("requests_at_once") or REQUESTS_AT_ONCE), BATCH_TOKENS // 2))
        self.notes: list[str] = []
        source = path
        copied = exact_copy if spec.options.get("precise") else fast_copy
        if spec.options.get("dequantise", True) and (copy := copied(path, self.header)) is not None:
            source = copy.path
            self.notes.append(copy.note)
        self._context: NativeContext | None = None
        self._generation: Generation | None = None
        self._forms = AnswerForms(path)
        try:
            self._load(source)
        except BaseException:
            BUDGET.release(self)
            raise
        self.capabilities = self._capabilities()

    def _load(self, source: Path) -> None:
        """Promise the memory, then load the weights."""
        path, precise = self.header.path, bool(self.spec.options.get("precise"))
        need = need_of(read_header(source), _outputs(self.header.vocabulary_size), precise=precise)
        wanted = -(-self._wanted_context() // CELL_STEP) * CELL_STEP * max(2, self.at_once + 1)
        self._maximum_cells = BUDGET.claim(self, path.name, need, wanted)
        layers = chosen_gpu_layers(self.header, need.cell * self._maximum_cells, self.spec.options.get("n_gpu_layers"))
        self._model = NativeModel(source, gpu_layers=layers)
        if llama_cpp.llama_model_has_encoder(self._model.pointer):
            self._model.close()
            raise BadInput(
                "This model does not chat", f"{path.name} has an encoder.", "Choose a decoder, such as Llama."
            )
        self.tokenizer = LlamaTokenizer(path, model=self._model, header=self.header)
        self._shares = not (
            llama_cpp.llama_model_is_recurrent(self._model.pointer)
            or llama_cpp.llama_model_is_hybrid(self._model.pointer)
        )

    def _wanted_context(self) -> int:
        context = self.header.context or _FALLBACK_CONTEXT
        return min(context, int(self.spec.options.get("context_tokens") or context))

    def _capabilities(self) -> Capabilities:
        wanted = self._wanted_context()
        context = min(wanted, self._maximum_cells)
        if context < wanted:
            self.notes.append(
                f"It reads {context:,} tokens at once instead of {wanted:,}: there is memory for no more."
            )
        return Capabilities(
            generate=True,
            top_k_log_probs=True,
            full_distributions=not student_obstacle(self.header),
            answer_log_probs=True,
            grammar=True,
            json_schema=True,
            context_tokens=context,
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
            limit = self.capabilities.context_tokens
            self._generation = Generation(
                self.tokenizer, self._forms, limit, self.at_once, self._shares, self._for_answers
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
        outputs = _outputs(self._model.vocabulary_size)
        context = self._opened(2 * longest + BATCH_TOKENS, SCORED_AT_ONCE, outputs)
        self._generation = None  # its memory was cleared
        return Scoring(context, reduce, self._shares, stop).run(sequences)

    def _for_answers(self, cells: int, sequences: int) -> NativeContext:
        return self._opened(min(cells, max(self._maximum_cells, CELL_STEP)), sequences, self.at_once)

    def _opened(self, cells: int, sequences: int, outputs: int) -> NativeContext:
        """The context at hand if it has enough of everything, else a new one in its place."""
        held = self._context
        if held and held.cells >= cells and held.sequences >= sequences and held.outputs == outputs:
            return held
        if held is not None:
            held.close()
        rounded = -(-cells // CELL_STEP) * CELL_STEP
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
        self._forms.close()
        self._model.close()
        BUDGET.release(self)


def _outputs(vocabulary_size: int) -> int:
    """Rows of logits in one decode of given text."""
    return max(32, min(BATCH_TOKENS, _OUTPUT_BYTES // (4 * max(vocabulary_size, 1))))


def _checked(path: Path) -> GGUFHeader:
    header = read_header(path)
    if not header.tensors:
        raise BadInput("This GGUF file holds no weights", f"{path.name} is a vocabulary.", "Choose the model itself.")
    return header
