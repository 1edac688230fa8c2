"""Logits of a student folder through torch: what was trained, before any conversion.

The certificate's reference: whatever export, quantization and llama.cpp do to a student is measured against this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio import settings
from kdstudio.errors import KnownError
from kdstudio.evaluation.logits import Logits, blocks
from kdstudio.networks.folder import load_folder
from kdstudio.networks.network import assemble


class TorchLogits:
    """Logits of the model in `folder` (config.json, model.safetensors), computed in float32.

    The last hidden states of up to `remembered` positions are kept, so that comparing several files with the same
    student costs one forward pass and then only its head.
    """

    def __init__(self, model: PreTrainedModel, *, remembered: int = 4096) -> None:
        self._model: Any = model
        self._device = next(model.parameters()).device
        self.vocabulary_size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
        self._hidden: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}
        self._left = remembered

    @torch.inference_mode()
    def at(self, prompt: Sequence[int], response: Sequence[int]) -> Iterator[Logits]:
        """As `LogitSource.at`. Raises `KnownError` when the student's weights have become NaN or infinite."""
        hidden = self._last_hidden(prompt, response)
        for first, last in blocks(prompt, response):
            logits: Tensor = self._model.lm_head(hidden[first:last]).float().cpu()
            if not bool(torch.isfinite(logits).all()):
                raise KnownError(
                    "The student's answers are not numbers",
                    "Its weights hold NaN or infinity: the training diverged.",
                    "Take an earlier checkpoint, or train again with a lower learning rate.",
                )
            yield logits.numpy()

    def _last_hidden(self, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
        key = (tuple(prompt), tuple(response))
        if key not in self._hidden:
            tokens = torch.tensor([[*prompt, *response[:-1]]], device=self._device)
            states: Tensor = self._model.model(input_ids=tokens, use_cache=False).last_hidden_state
            kept = states[0, len(prompt) - 1 :].clone()
            if self._left < len(response):
                return kept
            self._left -= len(response)
            self._hidden[key] = kept
        return self._hidden[key]

    def close(self) -> None:
        """Forget the model."""
        self._hidden.clear()
        self._model = None


def load_student(folder: Path, *, device: str = "cpu") -> PreTrainedModel:
    """Build the model of a student folder in float32 on `device`. Raises `BadInput` as `load_folder` does."""
    torch.set_num_threads(settings.thread_count())
    config, state = load_folder(folder)
    model: Any = assemble(config, state, str(folder))
    placed: PreTrainedModel = model.to(device)
    return placed


def load_exported(folder: Path) -> PreTrainedModel:
    """A folder as any user of transformers would load it; only for folders that we have just written ourselves."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model
