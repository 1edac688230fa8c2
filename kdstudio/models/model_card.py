"""What a model says of itself, as plain data for a person to read: read from its header, nothing is loaded.

Every word in it comes from the file and is the word of whoever made it: texts are cut and cleaned, never trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdstudio.models.gguf_header import GGUFHeader, read_header
from kdstudio.models.gguf_reader import LongText, TensorInfo
from kdstudio.models.teacher_file import header_terms, name_of
from kdstudio.models.terms import Terms, terms_of

_LINE, _PARAGRAPH, _LIST = 200, 4000, 50
MOST_BASES = 10


@dataclass(frozen=True)
class TypeShare:
    """How much of a file one number format takes: tensors, the numbers in them, bytes."""

    type: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class BaseModel:
    """A model that this one was made from, as the file says; `url` is a web address or ""."""

    name: str
    organization: str = ""
    url: str = ""


@dataclass(frozen=True)
class ModelCard:
    """A model file in facts. Numbers are 0 and texts "" where the file does not say.

    `types`: its number formats, the largest share first; `bits_per_weight` is the mean over all weights. `terms_stamp`
    is what rows made by it would carry. `template_known`: the chat template is one that we know by heart;
    `template_too_long`: there is one, longer than the header reader keeps.
    """

    path: str
    bytes: int
    name: str
    architecture: str
    parameters: int
    size_label: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    context: int
    vocabulary: int
    tokenizer: str
    quantization: str
    types: tuple[TypeShare, ...]
    bits_per_weight: float
    license: str
    license_link: str
    terms_stamp: str
    author: str
    organization: str
    url: str
    description: str
    base_models: tuple[BaseModel, ...]
    tags: tuple[str, ...]
    languages: tuple[str, ...]
    datasets: tuple[str, ...]
    template: str
    template_known: bool
    template_too_long: bool

    @property
    def terms(self) -> Terms:
        """What its licence, or what it was made under, says about training from it."""
        return terms_of(self.terms_stamp)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; with the terms in words."""
        return {**asdict(self), "terms": asdict(self.terms)}


def model_card(path: Path) -> ModelCard:
    """The card of a GGUF file or of a Hugging Face folder, in milliseconds. Raises `BadInput` for what is no model."""
    if path.is_dir():
        from kdstudio.models.folder_card import folder_card

        return folder_card(path)
    return card_of(read_header(path))


def card_of(header: GGUFHeader) -> ModelCard:
    """The card of a header that was read."""
    said = _Said(header.metadata)
    known, too_long = _about_template(header)
    return ModelCard(
        path=str(header.path),
        bytes=header.bytes,
        name=said.line("general.name") or name_of(header.path),
        architecture=said.line("general.architecture"),
        parameters=header.parameters,
        size_label=said.line("general.size_label"),
        layers=header.layers,
        hidden=header.hidden,
        feed_forward=header.count("feed_forward_length"),
        heads=header.heads,
        kv_heads=header.kv_heads,
        context=header.context,
        vocabulary=header.vocabulary_size,
        tokenizer=" ".join(filter(None, (said.line("tokenizer.ggml.model"), said.line("tokenizer.ggml.pre")))),
        quantization=header.quantization,
        types=type_shares(header.tensors),
        bits_per_weight=_bits(header),
        license=said.line("general.license"),
        license_link=said.address("general.license.link"),
        terms_stamp=header_terms(header),
        author=said.line("general.author"),
        organization=said.line("general.organization"),
        url=said.address("general.repo_url", "general.source.repo_url", "general.url", "general.source.url"),
        description=said.text("general.description"),
        base_models=tuple(_bases(said)),
        tags=said.lines("general.tags"),
        languages=said.lines("general.languages"),
        datasets=said.lines("general.datasets"),
        template=header.template,
        template_known=known,
        template_too_long=too_long,
    )


def type_shares(tensors: Iterable[TensorInfo]) -> tuple[TypeShare, ...]:
    """The number formats of a file's tensors, that with the most numbers first."""
    totals: dict[str, list[int]] = {}
    for tensor in tensors:
        total = totals.setdefault(tensor.type, [0, 0, 0])
        total[0] += 1
        total[1] += tensor.elements
        total[2] += tensor.bytes
    shares = (TypeShare(name, *total) for name, total in totals.items())
    return tuple(sorted(shares, key=lambda share: (-share.parameters, share.type)))


def _bits(header: GGUFHeader) -> float:
    stored = sum(tensor.bytes for tensor in header.tensors)
    return round(8 * stored / header.parameters, 2) if header.parameters else 0.0


def _about_template(header: GGUFHeader) -> tuple[bool, bool]:
    from kdstudio.models.chat_template import VETTED  # brings Jinja along

    return header.template in VETTED, isinstance(header.metadata.get("tokenizer.chat_template"), LongText)


def _bases(said: _Said) -> Iterable[BaseModel]:
    for number in range(min(said.number("general.base_model.count"), MOST_BASES)):
        key = f"general.base_model.{number}"
        name = said.line(f"{key}.name")
        url = said.address(f"{key}.repo_url", f"{key}.url")
        if name or url:
            yield BaseModel(name or url, said.line(f"{key}.organization"), url)


class _Said:
    """A file's metadata, of which any key may be missing, of a wrong type, endless or full of control characters."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self._metadata = metadata

    def number(self, key: str) -> int:
        value = self._metadata.get(key)
        return value if type(value) is int and value > 0 else 0

    def line(self, key: str) -> str:
        return clean(self._metadata.get(key), _LINE)

    def text(self, key: str) -> str:
        return clean(self._metadata.get(key), _PARAGRAPH)

    def lines(self, key: str) -> tuple[str, ...]:
        value = self._metadata.get(key)
        return of_list(value if isinstance(value, list) else [value])

    def address(self, *keys: str) -> str:
        """The first that is a web address: a link to anything else is not shown as one."""
        found = (self.line(key) for key in keys)
        return next((item for item in found if item.startswith(("https://", "http://")) and " " not in item), "")


def of_list(values: list[Any]) -> tuple[str, ...]:
    """The texts of a list, each cleaned, the first fifty."""
    return tuple(filter(None, (clean(value) for value in values[:_LIST])))


def clean(value: object, most: int = _LINE) -> str:
    """A text in one line without control and direction marks, cut with an ellipsis."""
    if not isinstance(value, str):
        return ""
    flat = " ".join("".join(mark if mark.isprintable() else " " for mark in value[: 4 * most]).split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
