"""The tokenizer of a model on this machine, whichever library reads its vocabulary."""

from __future__ import annotations

from pathlib import Path

from kdstudio.models.conversation import Tokenizer
from kdstudio.networks.hf_tokenizer import FolderTokenizer

VOCABULARY_NAME = "tokenizer.gguf"
"""In a student's folder: its source GGUF's metadata, from which llama.cpp reads the vocabulary."""


def open_tokenizer(source: Path, vocabulary_size: int = 0) -> Tokenizer:
    """The tokenizer of a GGUF file, of a student's folder or of a Hugging Face folder."""
    vocabulary = source / VOCABULARY_NAME if source.is_dir() else source
    if vocabulary.is_file():
        from kdstudio.teachers.llama_vocab import LlamaTokenizer

        return LlamaTokenizer(vocabulary)
    return FolderTokenizer(source, vocabulary_size)
