"""The GGUF formats a student can be exported to, with their measured size."""

from __future__ import annotations

from dataclasses import dataclass

from kdstudio.registry import Entry, Params, Registry

_REFERENCE = "https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md"


@dataclass(frozen=True)
class Quantization(Entry):
    """A GGUF file type. `bits` is the mean bits a weight; `direct`: written by us, else by `llama_model_quantize`."""

    bits: float
    direct: bool
    llama_ftype: int


def _format(key: str, bits: float, ftype: int, when: str, *, direct: bool = False) -> Quantization:
    return Quantization(key, key, when, _REFERENCE, Params, bits, direct, ftype)


QUANTIZATIONS: Registry[Quantization] = Registry(
    "quantization",
    (
        _format("F32", 32, 0, "Every weight exactly as trained; large.", direct=True),
        _format("F16", 16, 1, "Practically exact, half the size; fast on CPU and GPU.", direct=True),
        _format("BF16", 16, 32, "Exact for students trained in bf16.", direct=True),
        _format("Q8_0", 8.5, 7, "Hardly any loss, a quarter of F32: the safe default."),
        _format("Q6_K", 6.6, 18, "Small loss."),
        _format("Q5_K_M", 5.7, 17, "A fair balance for students above 0.5B parameters."),
        _format("Q4_K_M", 4.8, 15, "The usual small file; very small students lose visibly."),
        _format("Q4_0", 4.6, 2, "Fast on CPUs; loses more than Q4_K_M."),
    ),
)
