"""A real, tiny GGUF model for tests: it loads in llama.cpp and in torch, chats, and weighs less than 2 MB.

Its weights are random, but one coordinate of the residual stream is kept constant so that the output rows can carry a
bias: control tokens and odd bytes are never chosen, and `<|im_end|>` is now and then, so that answers are short
printable nonsense that differs by prompt.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CORPUS = (
    "the quick brown fox writes a short story about the little robot that lost its way in the old forest "
    "user assistant system one sentence starts here and there was once a brave mouse with a golden lantern who "
    "said hello to the lonely king of the hidden mountain while the silent river sang another song for them all "
)
_CONSTANT = 4.0  # the first coordinate of every embedding; no block writes to it
_TIED_CONSTANT = 12.0


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that GPT-2's byte-level BPE uses, in byte order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in kept)
    stand_in = {byte: chr(byte) for byte in kept} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [stand_in[byte] for byte in range(256)]


@functools.cache
def learn_merges(count: int) -> tuple[tuple[str, str], ...]:
    """The first `count` byte-pair merges of a small built-in text, fewer once nothing repeats."""
    words = [["Ġ", *word] for word in _CORPUS.split()]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return tuple(merges)


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for symbol in word:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def vocabulary(merges: int) -> list[str]:
    """Token strings by id: three control tokens, 256 bytes, then one per merge."""
    pieces = [*SPECIAL, *byte_alphabet()]
    return pieces + [piece for left, right in learn_merges(merges) if (piece := left + right) not in pieces]


def tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    layers: int = 4,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 512,
    dtype: str = "F32",
    architecture: str = "llama",
    tied: bool = False,
    merges: int = 160,
    template: str | None = CHATML,
    padding: int = 0,
) -> Path:
    """Write a chat model of `architecture` (llama, qwen2, qwen3) with matrices of `dtype` (F32, F16, Q8_0, Q4_1, ...).

    The same arguments always give the same bytes. `merges` changes the vocabulary; `template=None` leaves it out;
    `padding` adds ids that stand for nothing, as families of models have them.
    """
    tokens = vocabulary(merges) + [f"[PAD{number}]" for number in range(padding)]
    writer = gguf.GGUFWriter(str(path), architecture)
    _write_header(writer, layers, hidden, heads, kv_heads, context)
    _write_tokenizer(writer, tokens, merges, template)
    kind = gguf.GGMLQuantizationType[dtype]
    writer.add_file_type(int(getattr(gguf.LlamaFileType, {"F32": "ALL_F32"}.get(dtype, f"MOSTLY_{dtype}"))))
    for name, weight in _weights(seed, tokens, layers, hidden, heads, kv_heads, architecture, tied).items():
        if weight.ndim == 2 and kind is not gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_header(writer: gguf.GGUFWriter, layers: int, hidden: int, heads: int, kv_heads: int, context: int) -> None:
    writer.add_name("Tiny Test Teacher")
    writer.add_license("apache-2.0")
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(hidden // heads)
    writer.add_value_length(hidden // heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _write_tokenizer(writer: gguf.GGUFWriter, tokens: list[str], merges: int, template: str | None) -> None:
    control, normal, unused = (int(gguf.TokenType[name]) for name in ("CONTROL", "NORMAL", "UNUSED"))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    padding = {f"[PAD{number}]" for number in range(len(tokens))}
    writer.add_token_types(
        [control if token in SPECIAL else unused if token in padding else normal for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in learn_merges(merges)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)


def _weights(
    seed: int, tokens: list[str], layers: int, hidden: int, heads: int, kv_heads: int, architecture: str, tied: bool
) -> dict[str, Matrix]:
    rng = np.random.default_rng(seed)

    def normal(rows: int, columns: int, scale: float) -> Matrix:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    bias = np.array([_bias(token) for token in tokens], np.float32)
    embedding = normal(len(tokens), hidden, 1.0)
    embedding[:, 0] = _CONSTANT
    if tied:  # the rows that carry the bias are inputs too; the newline before every answer keeps the constant
        embedding[:, 0] = _TIED_CONSTANT * np.where(
            np.array(tokens) == "Ċ", 1.0, 1 + np.where(bias > 0, 0.25, 0.08) * bias
        )
    weights: dict[str, Matrix] = {"token_embd.weight": embedding, "output_norm.weight": np.ones(hidden, np.float32)}
    if not tied:
        head = normal(len(tokens), hidden, 4.0 / hidden**0.5)
        head[:, 0] = bias
        weights["output.weight"] = head
    key_rows = hidden // heads * kv_heads
    out = (8.0 if tied else 1.0) / hidden**0.5  # tied rows favour the token just read: the blocks must outweigh it
    for layer in range(layers):
        block = {
            "attn_norm.weight": np.ones(hidden, np.float32),
            "attn_q.weight": normal(hidden, hidden, 2.0 / hidden**0.5),
            "attn_k.weight": normal(key_rows, hidden, 2.0 / hidden**0.5),
            "attn_v.weight": normal(key_rows, hidden, 1.0 / hidden**0.5),
            "attn_output.weight": normal(hidden, hidden, out),
            "ffn_norm.weight": np.ones(hidden, np.float32),
            "ffn_gate.weight": normal(2 * hidden, hidden, 1.0 / hidden**0.5),
            "ffn_up.weight": normal(2 * hidden, hidden, 1.0 / hidden**0.5),
            "ffn_down.weight": normal(hidden, 2 * hidden, out),
        }
        block["attn_output.weight"][0] = 0
        block["ffn_down.weight"][0] = 0
        if architecture == "qwen2":
            for name, rows in (("q", hidden), ("k", key_rows), ("v", key_rows)):
                block[f"attn_{name}.bias"] = normal(1, rows, 0.1)[0]
        if architecture == "qwen3":
            for name in ("q", "k"):
                block[f"attn_{name}_norm.weight"] = np.abs(normal(1, hidden // heads, 0.2)[0] + 1)
        weights |= {f"blk.{layer}.{name}": weight for name, weight in block.items()}
    return weights


def _bias(token: str) -> float:
    """What a token's logit gains: the end of a turn a little; control tokens and bytes that are no text lose much."""
    if token == "<|im_end|>":
        return 3.0
    if token in SPECIAL:
        return -20.0
    return 0.0 if all(symbol == "Ġ" or " " < symbol <= "~" for symbol in token) else -20.0


@functools.cache
def tiny_model(**options: Any) -> Path:
    """One shared, read-only tiny model per set of options, made at first use and removed when the process ends.

    Copy it before changing it: `shutil.copy(tiny_model(layers=2), tmp_path / "mine.gguf")`.
    """
    folder = _shared_folder()
    return tiny_gguf(folder / f"tiny-{len(list(folder.iterdir()))}.gguf", **options)


@functools.cache
def _shared_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kdstudio-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
