"""Names llama.cpp's pre-tokenizer for a Hugging Face `tokenizer.json` by what it does, and the other way round.

llama.cpp knows byte-level pre-tokenizers by name (`tokenizer.ggml.pre`, src/llama-vocab.cpp). A wrong name gives
other token ids without any error, so that a tokenizer which matches no rule exactly is refused, never guessed.
"""

from __future__ import annotations

from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def pretokenizer_name(tokenizer: dict[str, Any]) -> str | None:
    """The value of `tokenizer.ggml.pre` for a parsed `tokenizer.json`, or None when no rule matches it exactly."""
    match _parts(tokenizer.get("pre_tokenizer")):
        case [("bytes", True)]:
            return "gpt-2"
        case [("digits", True), ("bytes", True)]:
            return "smollm"
        case [("split", pattern), ("bytes", False)] if pattern == _LLAMA3:
            # The same expression under two names: llama.cpp ties "merge whole words first" to the name.
            return "llama-bpe" if tokenizer.get("model", {}).get("ignore_merges") else "smaug-bpe"
        case [("split", pattern), ("bytes", False)] if pattern == _QWEN2 and not _ignores_merges(tokenizer):
            return "qwen2"
        case [("split", pattern), ("bytes", False)] if pattern == _QWEN35 and not _ignores_merges(tokenizer):
            return "qwen35"
    return None


def _ignores_merges(tokenizer: dict[str, Any]) -> bool:
    return bool(tokenizer.get("model", {}).get("ignore_merges"))


def _parts(pre: Any) -> list[tuple[str, Any]]:
    """The steps of a pre-tokenizer as (kind, what matters of it); a step that we do not know becomes ("other", ...)."""
    if not isinstance(pre, dict):
        return []
    steps = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else [pre]
    return [_part(step) for step in steps if isinstance(step, dict)]


def _part(step: dict[str, Any]) -> tuple[str, Any]:
    kind, pattern = step.get("type"), step.get("pattern")
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return "bytes", step.get("use_regex", True)
    if kind == "Digits":
        return "digits", step.get("individual_digits", False)
    if kind == "Split" and isinstance(pattern, dict) and step.get("behavior") == "Isolated" and not step.get("invert"):
        return "split", pattern.get("Regex")
    return "other", kind


def pretokenizer_steps(name: str) -> dict[str, Any] | None:
    """The `pre_tokenizer` of a `tokenizer.json` that does what `name` means to llama.cpp; None if unknown."""
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if name in ("gpt-2", "smollm"):
        digits = [{"type": "Digits", "individual_digits": True}] if name == "smollm" else []
        return {"type": "Sequence", "pretokenizers": [*digits, plain]} if digits else plain
    pattern = {"llama-bpe": _LLAMA3, "smaug-bpe": _LLAMA3, "qwen2": _QWEN2, "qwen35": _QWEN35}.get(name)
    if pattern is None:
        return None
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**plain, "use_regex": False}]}
