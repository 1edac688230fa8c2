"""The card of a Hugging Face folder: from its config, its weight files' headers, its tokenizer's settings and README.

No weight is read, none of the folder's code runs, and its words are cut and cleaned like those of a GGUF file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.models.gguf_reader import TensorInfo
from kdstudio.models.model_card import MOST_BASES, BaseModel, ModelCard, clean, of_list, type_shares
from kdstudio.models.model_folder import front_matter, read_config, read_json, stated_license, weight_files
from kdstudio.models.shape import shape_of_config
from kdstudio.models.terms import single

_MAXIMUM_HEADER, _MAXIMUM_TEMPLATE = 64 << 20, 1 << 20
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
_BITS |= {f"{kind}{bits}": bits for kind in "IU" for bits in (64, 32, 16, 8)}
_AGAIN = "Get the model again."


def folder_card(folder: Path) -> ModelCard:
    """What a folder with `config.json` and safetensors weights says. Raises `BadInput` where it cannot be a model."""
    config, files = read_config(folder), weight_files(folder)
    shape = shape_of_config(config, str(folder / "config.json"))
    tensors = [tensor for path in files for tensor in _tensors(path)]
    types = type_shares(tensors)
    parameters, stored = sum(tensor.elements for tensor in tensors), sum(tensor.bytes for tensor in tensors)
    matter, settings = front_matter(folder), _optional(folder / "tokenizer_config.json")
    template, too_long = _template(folder, settings)
    license_ = clean(stated_license(folder))
    return ModelCard(
        path=str(folder),
        bytes=sum(path.stat().st_size for path in files),
        name=clean(folder.resolve().name),
        architecture=clean(shape.architecture),
        parameters=parameters,
        size_label="",
        layers=shape.layers,
        hidden=shape.hidden,
        feed_forward=shape.feed_forward,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        context=shape.context,
        vocabulary=shape.vocabulary,
        tokenizer=clean(settings.get("tokenizer_class")),
        quantization=_quantization(config) or (types[0].type if types else ""),
        types=types,
        bits_per_weight=round(8 * stored / parameters, 2) if parameters else 0.0,
        license=license_,
        license_link=_address(_stated(matter, "license_link")),
        terms_stamp=single(license_),
        author="",
        organization="",
        url="",
        description="",
        base_models=tuple(BaseModel(name) for name in _stated(matter, "base_model")[:MOST_BASES]),
        tags=_stated(matter, "tags"),
        languages=_stated(matter, "language"),
        datasets=_stated(matter, "datasets"),
        template=template,
        template_known=_known(template),
        template_too_long=too_long,
    )


def _tensors(path: Path) -> Iterator[TensorInfo]:
    """The tensors that a safetensors file names in its header. Raises `BadInput` for a damaged one."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= _MAXIMUM_HEADER else None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("The weights cannot be read", f"{path}: {error}.", _AGAIN) from error
    if not isinstance(header, dict):
        raise BadInput("The weights make no sense", f"{path} has no header of safetensors.", _AGAIN)
    for name, said in header.items():
        if name != "__metadata__":
            yield _tensor(path, str(name), said if isinstance(said, dict) else {})


def _tensor(path: Path, name: str, said: dict[str, Any]) -> TensorInfo:
    shape, type_ = said.get("shape"), said.get("dtype")
    sound = isinstance(shape, list) and all(type(size) is int and 0 <= size < 1 << 40 for size in shape)
    if not sound or not isinstance(shape, list) or not isinstance(type_, str):
        raise BadInput("The weights make no sense", f"{path}: {name[:80]!r} has no shape or type.", _AGAIN)
    stored = math.prod(shape) * _BITS.get(type_, 8) // 8
    return TensorInfo(name, tuple(reversed(shape)), clean(type_, 20), 0, stored)


def _quantization(config: dict[str, Any]) -> str:
    """What the config says of weights that were squeezed: bitsandbytes, gptq, ..."""
    said = config.get("quantization_config")
    return clean(said.get("quant_method"), 40) if isinstance(said, dict) else ""


def _template(folder: Path, settings: dict[str, Any]) -> tuple[str, bool]:
    """The chat template and whether it is too long to be kept; a file of its own wins over the tokenizer's settings."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > _MAXIMUM_TEMPLATE:
            return "", True
        return path.read_text("utf-8", "replace"), False
    said = settings.get("chat_template")
    if isinstance(said, list):  # several named ones: the default is the one for plain chat
        said = next((one.get("template") for one in said if isinstance(one, dict) and one.get("name") == "default"), "")
    text = said if isinstance(said, str) else ""
    return ("", True) if len(text) > _MAXIMUM_TEMPLATE else (text, False)


def _known(template: str) -> bool:
    from kdstudio.models.chat_template import VETTED  # brings Jinja along

    return template in VETTED


def _optional(path: Path) -> dict[str, Any]:
    """A JSON file that may be missing or damaged: the card then says less."""
    try:
        return read_json(path, "", "")
    except BadInput:
        return {}


def _stated(matter: str, key: str) -> tuple[str, ...]:
    """A value or a list of plain values at the front matter's top level: `key: a`, `key: [a, b]`, or lines `- a`."""
    found = re.search(rf"^{key}:[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)", matter, re.MULTILINE)
    if found is None:
        return ()
    first, *further = found[1].split("\n")
    plain = first.strip()
    parts = plain[1:-1].split(",") if plain.startswith("[") and plain.endswith("]") else [plain]
    parts += [line.strip().removeprefix("-") for line in further]
    return of_list([part.strip().strip("'\"") for part in parts])


def _address(said: tuple[str, ...]) -> str:
    return next((one for one in said if one.startswith(("https://", "http://")) and " " not in one), "")
