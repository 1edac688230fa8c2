"""What common model licences say about training other models. A reminder to read them, not legal advice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """`free`: distillation is allowed without further conditions than keeping the notices."""

    name: str
    free: bool
    says: str


_NOTICES = "Training students is allowed; keep the licence and its notices with them."
_LLAMA_2 = "Its output may not be used to improve other language models than Llama ones."
_LLAMA_3_1 = "Training students is allowed; their names must begin with Llama, and they carry its licence."
_NON_COMMERCIAL = "Not for commercial use; students inherit that."
TERMS: dict[str, Terms] = {
    "apache-2.0": Terms("Apache 2.0", True, _NOTICES),
    "mit": Terms("MIT", True, _NOTICES),
    "bsd-3-clause": Terms("BSD 3-Clause", True, _NOTICES),
    "cc-by-4.0": Terms("CC BY 4.0", True, "Training students is allowed; credit the authors."),
    "cc-by-sa-4.0": Terms("CC BY-SA 4.0", False, "Credit the authors; adaptations carry the same licence."),
    "cc-by-nc-4.0": Terms("CC BY-NC 4.0", False, _NON_COMMERCIAL),
    "cc-by-nc-sa-4.0": Terms("CC BY-NC-SA 4.0", False, _NON_COMMERCIAL),
    "llama2": Terms("Llama 2 Community License", False, _LLAMA_2),
    "llama3": Terms("Llama 3 Community License", False, _LLAMA_2),
    "llama3.1": Terms("Llama 3.1 Community License", False, _LLAMA_3_1),
    "llama3.2": Terms("Llama 3.2 Community License", False, _LLAMA_3_1),
    "llama3.3": Terms("Llama 3.3 Community License", False, _LLAMA_3_1),
    "gemma": Terms("Gemma Terms of Use", False, "Models trained on its output are derivatives: its terms pass on."),
}


def terms_of(license_name: str) -> Terms:
    """The terms of a licence as GGUF files name it; one that says "unknown" for any other."""
    known = TERMS.get(license_name.strip().lower())
    if known is not None:
        return known
    name = license_name.strip()[:60] or "not stated"
    return Terms(name, False, "Read the model's terms before you train from it or share what you trained.")
