"""Which architectures can be a student and become a GGUF file again; said before anybody trains."""

from __future__ import annotations

from dataclasses import dataclass

from kdstudio.models.gguf_header import GGUFHeader


@dataclass(frozen=True)
class Architecture:
    """`key` as GGUF and Hugging Face's `model_type` name it, and the model's class in transformers."""

    key: str
    label: str
    model_class: str


ARCHITECTURES: dict[str, Architecture] = {
    item.key: item
    for item in (
        Architecture("llama", "Llama, Mistral, SmolLM", "LlamaForCausalLM"),
        Architecture("qwen2", "Qwen2, Qwen2.5", "Qwen2ForCausalLM"),
        Architecture("qwen3", "Qwen3", "Qwen3ForCausalLM"),
    )
}
TOKENIZER_MODELS = {"gpt2": "byte-level BPE", "llama": "SentencePiece"}


def student_obstacle(header: GGUFHeader) -> str:
    """Why no student can be made from this GGUF file; "" when one can. It may still be a teacher."""
    if header.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return f"Its architecture is {header.architecture!r}; students can be made from {known}."
    if header.of_architecture("expert_count", 0):
        return "It is a mixture of experts; students are made from dense models."
    if not header.tensors:
        return "The file holds a vocabulary and no weights."
    model = header.metadata.get("tokenizer.ggml.model")
    if model not in TOKENIZER_MODELS:
        return f"Its tokenizer is of type {model!r}; students need {' or '.join(TOKENIZER_MODELS.values())}."
    return ""
