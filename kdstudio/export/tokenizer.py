"""The tokenizer as GGUF metadata: copied from the GGUF that a student came from, or built from `tokenizer.json`.

What llama.cpp reads: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer. Token ids must be exactly
those the student was trained with, so nothing is guessed: what cannot be carried over is refused with a reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

from kdstudio.errors import BadInput
from kdstudio.export.metadata import Kind, Metadata, array, boolean, read_metadata, text, unsigned
from kdstudio.export.pretokenizers import pretokenizer_name

MAXIMUM_JSON_BYTES = 256 << 20
MAXIMUM_TOKENS = 1 << 22
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>")
_PREFIX = "tokenizer."


def tokenizer_metadata(folder: Path, embedding_rows: int) -> Metadata:
    """All `tokenizer.*` values for a student folder whose embedding has `embedding_rows` rows.

    `tokenizer.gguf` wins over `tokenizer.json`; `chat_template.jinja` wins over the template inside either.
    Raises `BadInput` when neither is there, or when llama.cpp could not give the same token ids.
    """
    if (folder / "tokenizer.gguf").exists():
        found = read_metadata(folder / "tokenizer.gguf", _PREFIX)
    else:
        found = from_json(folder)
    tokens = found[f"{_PREFIX}ggml.tokens"].value
    if len(tokens) > embedding_rows:
        raise BadInput(
            "Tokenizer and weights do not belong together",
            f"{folder}: the tokenizer has {len(tokens):,} tokens and the embedding {embedding_rows:,} rows.",
            "Choose the tokenizer that the model was trained with.",
        )
    _pad(found, embedding_rows)
    template = folder / "chat_template.jinja"
    if template.exists():
        found[f"{_PREFIX}chat_template"] = text(template.read_text("utf-8"))
    _name_end_of_turn(found)
    return {key: value for key, value in found.items() if value.value not in ("", [])}


def _pad(found: Metadata, rows: int) -> None:
    """Embeddings are often padded to a round number: give the extra rows names that no text can produce."""
    tokens, types = found[f"{_PREFIX}ggml.tokens"].value, found.get(f"{_PREFIX}ggml.token_type")
    missing = range(len(tokens), rows)
    if not missing:
        return
    tokens.extend(f"[PAD{number}]" for number in missing)
    if types is not None:
        types.value.extend([int(gguf.TokenType.UNUSED)] * len(missing))
    scores = found.get(f"{_PREFIX}ggml.scores")
    if scores is not None:
        scores.value.extend([-1000.0] * len(missing))


def _name_end_of_turn(found: Metadata) -> None:
    """Say which token ends a turn when the template uses a known one, so that every program stops there."""
    key = f"{_PREFIX}ggml.eot_token_id"
    template = found.get(f"{_PREFIX}chat_template")
    if key in found or template is None:
        return
    tokens = found[f"{_PREFIX}ggml.tokens"].value
    for mark in END_OF_TURN:
        if mark in template.value and mark in tokens:
            found[key] = unsigned(tokens.index(mark))
            return


def load_json(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parsed `tokenizer.json` and `tokenizer_config.json` (empty if absent) of a Hugging Face folder."""
    path = folder / "tokenizer.json"
    tokenizer = _read_json(path, required=True)
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens") or []
    whole = isinstance(model, dict) and isinstance(added, list)
    if not whole or not all(isinstance(entry, dict) and {"id", "content"} <= entry.keys() for entry in added):
        raise BadInput("The tokenizer cannot be read", f"{path} has no model or garbled tokens.", "Save it again.")
    tokenizer["added_tokens"] = added
    return tokenizer, _read_json(folder / "tokenizer_config.json", required=False)


def _read_json(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.exists():
        if not required:
            return {}
        raise BadInput(
            "No tokenizer found", f"{path.parent} has neither tokenizer.gguf nor tokenizer.json.", "Add its tokenizer."
        )
    try:
        if path.stat().st_size > MAXIMUM_JSON_BYTES:
            raise ValueError(f"it is larger than {MAXIMUM_JSON_BYTES:,} bytes")
        parsed = json.loads(path.read_text("utf-8"))
        if not isinstance(parsed, dict):
            raise TypeError("it is not a JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BadInput(
            "The tokenizer cannot be read", f"{path}: {error}.", "The file is cut off or damaged."
        ) from error
    return parsed


def refusal(tokenizer: dict[str, Any]) -> str | None:
    """Why llama.cpp could not give the token ids of this `tokenizer.json`; None if it can."""
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        return (
            f"Its tokenizer is of type {model.get('type')!r}; from tokenizer.json only byte-level BPE can be exported."
        )
    if pretokenizer_name(tokenizer) is None:
        return "Its pre-tokenizer is not one that llama.cpp is known to share, so that token ids could differ."
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        return f"Its tokenizer normalises text with {normalizer!r}, which llama.cpp does not."
    return None


def from_json(folder: Path) -> Metadata:
    """Build `tokenizer.*` values from a byte-level BPE `tokenizer.json`. Raises `BadInput` saying why it cannot."""
    tokenizer, config = load_json(folder)
    reason = refusal(tokenizer)
    if reason is not None:
        raise BadInput(
            "This tokenizer cannot be exported", f"{folder}: {reason}", "Use a student with another tokenizer."
        )
    tokens, types = _tokens(tokenizer)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"].get("merges", [])]
    found: Metadata = {
        f"{_PREFIX}ggml.model": text("gpt2"),
        f"{_PREFIX}ggml.pre": text(pretokenizer_name(tokenizer) or ""),
        f"{_PREFIX}ggml.tokens": array(tokens, Kind.STRING),
        f"{_PREFIX}ggml.token_type": array(types, Kind.INT32),
        f"{_PREFIX}ggml.merges": array(merges, Kind.STRING),
    }
    ids = {token: number for number, token in enumerate(tokens)}
    _add_special(found, ids, folder, tokenizer, config)
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    found[f"{_PREFIX}chat_template"] = text(template or "")
    return found


def _tokens(tokenizer: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Token strings and types by id. Gaps become unused names; added tokens are control or user-defined."""
    try:
        by_id = {int(number): str(token) for token, number in tokenizer["model"]["vocab"].items()}
        added = {int(entry["id"]): entry for entry in tokenizer["added_tokens"]}
        if not by_id or max((*by_id, *added)) > MAXIMUM_TOKENS:
            raise ValueError("it is empty, or its ids are too large")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            "The tokenizer cannot be read", f"Its vocabulary is garbled: {error}.", "Save it again."
        ) from error
    tokens, types = [], []
    for number in range(max((*by_id, *added)) + 1):
        if number in added:
            tokens.append(str(added[number]["content"]))
            kind = gguf.TokenType.CONTROL if added[number].get("special") else gguf.TokenType.USER_DEFINED
        elif number in by_id:
            tokens.append(by_id[number])
            kind = gguf.TokenType.NORMAL
        else:
            tokens.append(f"[PAD{number}]")
            kind = gguf.TokenType.UNUSED
        types.append(int(kind))
    return tokens, types


def _add_special(
    found: Metadata, ids: dict[str, int], folder: Path, tokenizer: dict[str, Any], config: dict[str, Any]
) -> None:
    model = _read_json(folder / "config.json", required=False)
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        entry = config.get(f"{name}_token")
        content = entry.get("content") if isinstance(entry, dict) else entry
        number = ids.get(content) if isinstance(content, str) else model.get(f"{name}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int):
            found[f"{_PREFIX}ggml.{key}_token_id"] = unsigned(number)
    begins = _adds_first(tokenizer, found, ids)
    found[f"{_PREFIX}ggml.add_bos_token"] = boolean(bool(config.get("add_bos_token", begins)))
    found[f"{_PREFIX}ggml.add_space_prefix"] = boolean(False)


def _adds_first(tokenizer: dict[str, Any], found: Metadata, ids: dict[str, int]) -> bool:
    """Whether the post-processor's template begins with the beginning-of-text token."""
    bos = found.get(f"{_PREFIX}ggml.bos_token_id")
    processor = tokenizer.get("post_processor") or {}
    steps = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    for step in steps:
        if step.get("type") == "TemplateProcessing" and step.get("single"):
            first = step["single"][0].get("SpecialToken", {}).get("id")
            return bos is not None and ids.get(first) == bos.value
    return False
