"""What licences and providers say about training other models. A reminder to read them, not legal advice.

A *stamp* is the short text that names terms: it stands on every row that a teacher made, and `terms_of` reads it. It is
a licence as model files name it, a provider ("openai"), "provider:HOST" for one that is not known here, a person's own
words after "free: " or "restricted: ", several of these joined by " + ", or "" when nothing is stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAXIMUM_STAMP_CHARACTERS = 200
FREE, RESTRICTED, PROVIDER = "free: ", "restricted: ", "provider:"
_JOIN = " + "


@dataclass(frozen=True)
class Terms:
    """`free`: distillation is allowed without further conditions than keeping the notices. `link`: where to read them.

    `stated` is false where nobody said anything: then nothing is known, for better or worse.
    """

    name: str
    free: bool
    says: str
    link: str = ""
    stated: bool = True

    @property
    def restricted(self) -> bool:
        """Whether training on it asks for a reason: something is stated, and it is not known to be free."""
        return self.stated and not self.free


_NOTICES = "Training students is allowed; keep the licence and its notices with them."
_LLAMA_2 = "Its output may not be used to improve other language models than Llama ones."
_LLAMA_3_1 = "Training students is allowed; their names must begin with Llama, and they carry its licence."
_NON_COMMERCIAL = "Not for commercial use; students inherit that."
_SHARE_ALIKE = "Works based on it carry the same licence; whether a student is one is for you to find out."
_RAIL = "Training students is allowed; its restrictions of use pass on to them."
_RESEARCH = "For research, not for commercial use; students inherit that."
TERMS: dict[str, Terms] = {
    "apache-2.0": Terms("Apache 2.0", True, _NOTICES),
    "mit": Terms("MIT", True, _NOTICES),
    "isc": Terms("ISC", True, _NOTICES),
    "bsd-2-clause": Terms("BSD 2-Clause", True, _NOTICES),
    "bsd-3-clause": Terms("BSD 3-Clause", True, _NOTICES),
    "cc0-1.0": Terms("CC0 1.0", True, "Dedicated to the public: training students is allowed."),
    "unlicense": Terms("The Unlicense", True, "Dedicated to the public: training students is allowed."),
    "cc-by-4.0": Terms("CC BY 4.0", True, "Training students is allowed; credit the authors."),
    "cc-by-sa-4.0": Terms("CC BY-SA 4.0", False, "Credit the authors; adaptations carry the same licence."),
    "cc-by-nc-4.0": Terms("CC BY-NC 4.0", False, _NON_COMMERCIAL),
    "cc-by-nc-sa-4.0": Terms("CC BY-NC-SA 4.0", False, _NON_COMMERCIAL),
    "cc-by-nc-nd-4.0": Terms("CC BY-NC-ND 4.0", False, "Not for commercial use, and adaptations may not be shared."),
    "gpl-3.0": Terms("GPL 3.0", False, _SHARE_ALIKE),
    "agpl-3.0": Terms("AGPL 3.0", False, _SHARE_ALIKE),
    "openrail": Terms("OpenRAIL", False, _RAIL),
    "bigscience-openrail-m": Terms("BigScience OpenRAIL-M", False, _RAIL),
    "bigcode-openrail-m": Terms("BigCode OpenRAIL-M", False, _RAIL),
    "llama2": Terms("Llama 2 Community License", False, _LLAMA_2),
    "llama3": Terms("Llama 3 Community License", False, _LLAMA_2),
    "llama3.1": Terms("Llama 3.1 Community License", False, _LLAMA_3_1),
    "llama3.2": Terms("Llama 3.2 Community License", False, _LLAMA_3_1),
    "llama3.3": Terms("Llama 3.3 Community License", False, _LLAMA_3_1),
    "llama4": Terms("Llama 4 Community License", False, _LLAMA_3_1),
    "gemma": Terms("Gemma Terms of Use", False, "Models trained on its output are derivatives: its terms pass on."),
    "qwen-research": Terms("Qwen Research License", False, _RESEARCH),
    "mrl": Terms("Mistral AI Research License", False, _RESEARCH),
}

_COMPETE = "Its terms restrict using it to develop models that compete with its own. Read them."
_SEE = "Its terms say what its output may be used for. Read what they say about training other models."
_PASSES_ON = "It passes requests on: its own terms apply, and those of whoever made the model. Read both."
PROVIDERS: dict[str, Terms] = {
    "openai": Terms("OpenAI’s terms", False, _COMPETE, "https://openai.com/policies/"),
    "azure-openai": Terms("Microsoft’s terms for Azure AI", False, _SEE, "https://www.microsoft.com/licensing/terms/"),
    "anthropic": Terms(
        "Anthropic’s terms",
        False,
        "Its terms restrict using Claude to train competing models; other training is limited too. Read them.",
        "https://www.anthropic.com/legal/commercial-terms",
    ),
    "google": Terms("Google’s Gemini API terms", False, _COMPETE, "https://ai.google.dev/gemini-api/terms"),
    "amazon-bedrock": Terms("Amazon’s terms for Bedrock", False, _COMPETE, "https://aws.amazon.com/service-terms/"),
    "mistral": Terms("Mistral AI’s terms", False, _SEE, "https://mistral.ai/terms/"),
    "xai": Terms("xAI’s terms", False, _SEE, "https://x.ai/legal/"),
    "cohere": Terms("Cohere’s terms", False, _SEE, "https://cohere.com/terms-of-use"),
    "deepseek": Terms("DeepSeek’s terms", False, _SEE, "https://platform.deepseek.com/"),
    "perplexity": Terms("Perplexity’s terms", False, _SEE, "https://www.perplexity.ai/hub/legal"),
    "openrouter": Terms("OpenRouter’s terms", False, _PASSES_ON, "https://openrouter.ai/terms"),
    "hugging-face": Terms("Hugging Face’s terms", False, _PASSES_ON, "https://huggingface.co/terms-of-service"),
    "groq": Terms("Groq’s terms", False, _PASSES_ON, "https://groq.com/terms-of-use/"),
    "together": Terms("Together AI’s terms", False, _PASSES_ON, "https://www.together.ai/terms-of-service"),
    "fireworks": Terms("Fireworks AI’s terms", False, _PASSES_ON, "https://fireworks.ai/terms-of-service"),
    "deepinfra": Terms("DeepInfra’s terms", False, _PASSES_ON, "https://deepinfra.com/terms"),
}

_UNKNOWN = "Read the model's terms before you train from it or share what you trained."
_OWN_FREE = "You noted that training students is allowed."
_OWN_RESTRICTED = "You noted that there are restrictions."
_FAMILIES = {  # names that files also use for the licences above
    "apache": "apache-2.0",
    "apache2": "apache-2.0",
    "apache2.0": "apache-2.0",
    "apache-2": "apache-2.0",
    "mit-license": "mit",
    "the-mit-license": "mit",
    "cc0": "cc0-1.0",
    "llama-2": "llama2",
    "llama-3": "llama3",
    "llama-3.1": "llama3.1",
    "llama-3.2": "llama3.2",
    "llama-3.3": "llama3.3",
    "llama-4": "llama4",
}


def terms_of(stamp: str) -> Terms:
    """The terms that a stamp (or a licence as GGUF files name it) stands for; one that says so for an unknown one."""
    parts = parts_of(stamp)
    if len(parts) > 1:
        return _together([terms_of(part) for part in parts])
    text = clean_stamp(stamp)
    if text.startswith(FREE):
        return Terms(text.removeprefix(FREE), True, _OWN_FREE)
    if text.startswith(RESTRICTED):
        return Terms(text.removeprefix(RESTRICTED), False, _OWN_RESTRICTED)
    if text.startswith(PROVIDER):
        return Terms(f"The terms of {text.removeprefix(PROVIDER)[:60]}", False, _SEE)
    known = TERMS.get(licence_key(text)) or PROVIDERS.get(text.lower())
    if known is not None:
        return known
    return Terms(text[:60] or "not stated", False, _UNKNOWN, stated=bool(text))


def is_licence(stamp: str) -> bool:
    """Whether a stamp is one licence's name, known or not, rather than a provider's terms or somebody's words."""
    single_one = len(parts_of(stamp)) == 1 and not stamp.startswith((FREE, RESTRICTED, PROVIDER))
    return single_one and stamp.lower() not in PROVIDERS


def _together(several: list[Terms]) -> Terms:
    says = " ".join(dict.fromkeys(f"{terms.name}: {terms.says}" for terms in several))
    stated = any(terms.stated for terms in several)
    return Terms(" and ".join(terms.name for terms in several), all(terms.free for terms in several), says, "", stated)


def licence_key(name: str) -> str:
    """A licence's name as `TERMS` spells it: `Apache License 2.0` and `apache-2.0` are one."""
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    key = re.sub(r"-(license|licence)(,?-version)?-", "-", key)
    return _FAMILIES.get(key, key)


def clean_stamp(text: str) -> str:
    """A stamp in one line of at most 200 characters: licences come from files, words from people."""
    flat = " ".join(
        "".join(mark if mark.isprintable() else " " for mark in text[: 4 * MAXIMUM_STAMP_CHARACTERS]).split()
    )
    return flat[:MAXIMUM_STAMP_CHARACTERS].strip()


def joined(stamps: Iterable[str]) -> str:
    """One stamp for what several teachers made together; each named once."""
    parts = {part: None for stamp in stamps for part in parts_of(stamp)}
    return _JOIN.join(sorted(parts))


def parts_of(stamp: str) -> tuple[str, ...]:
    """The single stamps in one, which may be longer than any of them; () for none."""
    return tuple(part.strip() for part in stamp.split(_JOIN) if part.strip())


def single(text: str) -> str:
    """A stamp of one licence or a person's words, in which nothing is taken for a joint."""
    return clean_stamp(clean_stamp(text).replace(_JOIN, " and "))
