"""Student folders for these tests, made by transformers from tiny GGUF files or from random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from tests.tiny import CHATML, SPECIAL, byte_alphabet, learn_merges, tiny_gguf, vocabulary

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def tiny_options(architecture: str) -> dict[str, Any]:
    """Sizes at which transformers' own GGUF reader works: it always takes 128 for the heads of a qwen3."""
    return {"hidden": 256, "heads": 2, "kv_heads": 1, "layers": 2} if architecture == "qwen3" else {"layers": 2}


def folder_from_tiny(folder: Path, architecture: str = "llama", *, tied: bool = False) -> Path:
    """A student folder whose weights transformers (not we) read from a tiny GGUF, kept as `source.gguf` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = tiny_gguf(folder / "source.gguf", architecture=architecture, tied=tied, **tiny_options(architecture))
    model = load_with_transformers(source)
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))
    save_weights(folder, model.state_dict(), tied=tied)
    shutil.copy(source, folder / "tokenizer.gguf")
    return folder


def save_weights(folder: Path, state: dict[str, torch.Tensor], *, tied: bool = False) -> None:
    kept = {name: tensor.contiguous() for name, tensor in state.items() if not (tied and name == "lm_head.weight")}
    save_file(kept, folder / "model.safetensors")


def load_with_transformers(path: Path) -> Any:
    """The oracle: transformers' own reading of a GGUF file, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


def random_folder(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Save a randomly initialised transformers model of `kind` with the tiny vocabulary; returns the model."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {
        "vocab_size": len(vocabulary(160)),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
    }
    classes: dict[str, tuple[Any, Any]] = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    if kind == "qwen2":
        del sizes["head_dim"]
    torch.manual_seed(0)
    config_class, model_class = classes[kind]
    model = model_class(config_class(**(sizes | changes))).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0, 0.2)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    save_weights(folder, model.state_dict(), tied=model.config.tie_word_embeddings)
    write_tokenizer_json(folder)
    return model.float().eval()


def write_tokenizer_json(folder: Path, split: str = "gpt-2") -> Tokenizer:
    """The tiny vocabulary as a Hugging Face tokenizer with the pre-tokenizer that `split` names."""
    tokens = vocabulary(160)
    model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=list(learn_merges(160)),
        ignore_merges=split == "llama-bpe",
    )
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[split]
    tokenizer.decoder = decoders.ByteLevel()
    assert len(byte_alphabet()) == 256
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0], "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE_TOKENIZERS: dict[str, pre_tokenizers.PreTokenizer] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": _split(_LLAMA3),
    "smaug-bpe": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
}
