"""A form that an answer must keep, as llama.cpp's grammar sampler tests it token by token.

A token is only ever given to the sampler once it was allowed: llama.cpp ends the process for any other.
"""

from __future__ import annotations

import ctypes
import time

import llama_cpp
import numpy as np
import numpy.typing as npt

from kdstudio.errors import BadInput, KnownError
from kdstudio.teachers.llama_log import captured_log
from kdstudio.teachers.llama_native import Logits

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_STEP_SECONDS = 2.0  # a sound grammar takes milliseconds; one that branches without end doubles its time at each token


class AnswerForm:
    """The state of one answer within a GBNF grammar, whose first rule is `root`.

    Only for grammars that `llama_forms.AnswerForms` has tried. Raises `BadInput` for one that cannot be read and
    `KnownError` when it has branched so far that each further token would take seconds.
    """

    def __init__(self, vocabulary: llama_cpp.llama_vocab_p, gbnf: str) -> None:
        with captured_log() as said:
            self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, gbnf.encode("utf-8", "replace"), b"root")
        if not self._sampler:
            reason = (
                " ".join(" ".join(said[-2:]).split()) or "It has no rule named root, or a rule that it never defines."
            )
            raise BadInput("The answer's form is not a grammar", reason, "Correct the grammar (GBNF).")

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token (or end, for a token that ends it)."""
        return bool(self._tested(np.array([token]))[0])

    def allowed(self, vocabulary_size: int) -> npt.NDArray[np.bool_]:
        """[V] whether the answer may go on with each token."""
        return self._tested(np.arange(vocabulary_size))

    def filtered(self, row: npt.NDArray[np.float32]) -> Logits:
        """[V] logits with minus infinity at what is refused. Raises `KnownError` when that is everything."""
        allowed = self.allowed(len(row))
        if not allowed.any():
            raise KnownError(
                "The answer's form leads nowhere",
                "No token of this teacher continues what it has said so far.",
                "Allow more characters in the grammar or the schema.",
            )
        return np.where(allowed, row, np.float32(-np.inf))

    def take(self, token: int) -> None:
        """Go on with an allowed token."""
        began = time.thread_time()
        llama_cpp.llama_sampler_accept(self._sampler, token)
        _require_quick(began)

    def close(self) -> None:
        """Free the state; a second call does nothing."""
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None

    def _tested(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        began = time.thread_time()
        candidates = np.zeros(len(tokens), _CANDIDATE)
        candidates["id"] = tokens
        pointer = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data=pointer, size=len(tokens), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        _require_quick(began)
        return np.asarray(candidates["logit"] == 0)


def _require_quick(began: float) -> None:
    if time.thread_time() - began > _STEP_SECONDS:
        raise KnownError(
            "The answer's form is too ambiguous",
            f"After what was said so far a single token took more than {_STEP_SECONDS:.0f} s to test.",
            "Rewrite the grammar so that one text cannot be read in many ways.",
        )
