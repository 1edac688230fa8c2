"""The process that tries grammars of unknown origin: `python -m kdstudio.teachers.llama_form_trial MODEL.gguf`.

llama.cpp overflows its stack on a deep grammar, aborts on a hidden left recursion, and can branch without end on one
that is merely ambiguous; the converter of JSON Schemas can be led into endless work too. All of that happens here, with
a limit on time and memory, before the teacher's own process meets the grammar. One JSON request a line on standard
input, one JSON reply a line on standard output; no reply means that the grammar broke the process.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from llama_cpp.llama_grammar import json_schema_to_gbnf

from kdstudio.errors import BadInput, KnownError
from kdstudio.teachers.llama_form import AnswerForm
from kdstudio.teachers.llama_native import NativeModel
from kdstudio.teachers.llama_vocab import LlamaTokenizer

CPU_SECONDS = 2.0
MEMORY_BYTES = 1 << 30
LONGEST_BYTES = 128 << 10
_WALK_SECONDS, _WALK_TOKENS, _WALKS = 0.4, 24, 8
_SCHEMA_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)  # fmt: skip -- the converter was written for sound schemas: a bad one meets whatever its code does


def main() -> None:
    """Serve until standard input ends."""
    model = NativeModel(Path(sys.argv[1]), vocabulary_only=True)
    tokenizer = LlamaTokenizer(Path(sys.argv[1]), model=model)
    lengths = np.array([len(tokenizer.piece(token)) for token in range(model.vocabulary_size)])
    _limit_memory()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(CPU_SECONDS)
        try:
            gbnf = request["grammar"] or gbnf_of(request["json_schema"])
            _try(model, gbnf, lengths)
            reply = {"gbnf": gbnf}
        except KnownError as error:
            reply = {"title": error.title, "detail": error.detail, "hint": error.hint}
        except MemoryError:
            reply = {"title": "The answer's form is too large", "detail": "It asks for too much memory."}
        _limit_time(0)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


def gbnf_of(schema: str) -> str:
    """The grammar of a JSON Schema. Raises `BadInput` for one that is not JSON or uses what cannot be converted."""
    try:
        return str(json_schema_to_gbnf(schema))
    except _SCHEMA_FAULTS as error:
        raise BadInput(
            "The answer's form is not a JSON Schema that can be followed",
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            "Use types, properties, required, items, enum, const, anyOf, $ref and patterns between ^ and $.",
        ) from None


def _try(model: NativeModel, gbnf: str, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Read the grammar and follow it for some tokens: the longest ones first, which branch the furthest."""
    if "\0" in gbnf or len(gbnf.encode("utf-8", "replace")) > LONGEST_BYTES:
        raise BadInput(
            "The answer's form cannot be used",
            f"It has {len(gbnf):,} characters; {LONGEST_BYTES >> 10} KiB are read, and no null characters.",
            "Shorten it.",
        )
    source, began = random.Random(0), time.process_time()
    for walk in range(_WALKS):
        form = AnswerForm(model.vocabulary, gbnf)
        try:
            _walk(form, model, lengths, source if walk else None, began + _WALK_SECONDS)
        finally:
            form.close()
        if time.process_time() > began + _WALK_SECONDS:
            return


def _walk(
    form: AnswerForm,
    model: NativeModel,
    lengths: np.ndarray[tuple[int], np.dtype[np.int64]],
    source: random.Random | None,
    end: float,
) -> None:
    for step in range(_WALK_TOKENS):
        allowed = np.flatnonzero(form.allowed(model.vocabulary_size))
        if not step and not len(allowed):
            raise BadInput(
                "The answer's form leads nowhere", "No token of this teacher can begin it.", "Correct the grammar."
            )
        allowed = allowed[lengths[allowed] > 0]  # control tokens, which end an answer, have no text
        if not len(allowed) or time.process_time() > end:
            return
        form.take(int(source.choice(allowed) if source else allowed[lengths[allowed].argmax()]))


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    import resource

    limits = {resource.RLIMIT_AS: psutil.Process().memory_info().vms + MEMORY_BYTES, resource.RLIMIT_FSIZE: 0}
    for limit, value in limits.items():
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):
            continue  # a system that cannot limit this one; the other holds


def _limit_time(seconds: float) -> None:
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process, even inside a long C call


if __name__ == "__main__":
    main()
