"""The card's words, and the folder for transformers made from GGUF tokenizers of several kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml  # type: ignore[import-untyped]

from kdstudio.export.cards import CardFacts, card
from kdstudio.export.certificate import Certificate, read_certificates, write_certificate
from kdstudio.export.metadata import Kind, array, boolean, read_metadata, text, unsigned
from kdstudio.export.pretokenizers import pretokenizer_name, pretokenizer_steps
from kdstudio.export.safetensors import tokenizer_json, write_folder
from kdstudio.models.terms_summary import TermsUse
from tests.tiny import tiny_model
from tests.unit.export.student_folders import folder_from_tiny, random_folder

GOOD = Certificate(
    file="Fox-Q8_0.gguf",
    quantization="Q8_0",
    bytes=1 << 20,
    sha256="a" * 64,
    passed=True,
    required_agreement=0.0,
    top1_agreement=0.9731,
    kl=0.00123,
    largest_kl=0.5,
    positions=1000,
    rows=30,
    text="held-out rows",
    same_tokens=True,
    note="3 of 9 tensors fell back.",
)


def front_matter(content: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(content.split("---\n")[1])
    return loaded


def test_a_full_card() -> None:
    facts = CardFacts(
        name="Fox",
        run="run-1",
        teacher="SmolLM2 135M",
        terms="Apache 2.0",
        base="Smollm2 135M",
        parameters=81_413_568,
        recipe_title="Stories",
        recipe_hash="f" * 32,
        objectives=("forward_kl x 1",),
        rows=180,
        steps=63,
        before={"held_out_forward_kl": 9.8, "held_out_top1_agreement": 0.01},
        trained={"held_out_forward_kl": 0.93, "held_out_top1_agreement": 0.54},
        languages=("en", "de"),
        changes="Layers were left out.",
    )
    content = card(facts, [GOOD])
    matter = front_matter(content)
    assert matter["license"] == "apache-2.0"
    assert matter["base_model"] == "Smollm2 135M"
    assert matter["language"] == ["en", "de"]
    assert "knowledge-distillation" in matter["tags"]
    for words in (
        "81.4M parameters",
        "distilled from SmolLM2 135M",
        "9.8000 before, 0.9300 after",
        "1.0% before, 54.0% after",
        "| Rows learnt | 180 |",
        "97.31%",
        "1.23e-03",
        "1.0 MiB",
        "Q8_0: 3 of 9 tensors fell back.",
        "kdstudio chat 'Fox-Q8_0.gguf'",
        "f" * 32,
    ):
        assert words in content


def test_a_card_without_anything_known() -> None:
    content = card(CardFacts(name="Fox", run="r"), [])
    assert "states no terms" in content
    assert "## Files" not in content
    assert "license" not in front_matter(content)


def test_a_card_passes_on_the_terms_of_every_row() -> None:
    learnt = (TermsUse("openai", 7, ("gpt",)), TermsUse("apache-2.0", 3, ("smol",)))
    facts = CardFacts(name="Fox", run="r", terms="apache-2.0", learnt=learnt, reason="An <internal> experiment")
    content = card(facts, [])
    assert front_matter(content)["license"] == "other"
    for words in (
        "| 7 | OpenAI’s terms |",
        "https://openai.com/policies/",
        "| 3 | Apache 2.0 |",
        "An \\<internal\\> exp",
    ):
        assert words in content
    free = card(CardFacts(name="Fox", run="r", terms="apache-2.0", learnt=learnt[1:]), [])
    assert front_matter(free)["license"] == "apache-2.0"
    assert "Why it was trained" not in free


@pytest.mark.parametrize(
    ("terms", "stated"), [("gemma", "gemma"), ("openai", "other"), ("restricted: ask", "other"), ("", None)]
)
def test_only_a_licence_is_stated_as_one(terms: str, stated: str | None) -> None:
    content = card(CardFacts(name="Fox", run="r", terms=terms, learnt=(TermsUse(terms, 1),) if terms else ()), [])
    assert front_matter(content).get("license") == stated


def test_names_from_strangers_cannot_break_the_card() -> None:
    evil = 'x"\n---\n# owned\n<script>|[a](b)`'
    content = card(CardFacts(name="Fox", run="r", teacher=evil, base=evil, terms=evil), [])
    matter = front_matter(content)
    assert matter["base_model"] == evil
    assert "\n# owned" not in content
    assert "\\<script\\>" in content


def test_certificates_round_trip_and_orphans_are_left_out(tmp_path: Path) -> None:
    write_certificate(GOOD, tmp_path)
    assert read_certificates(tmp_path) == []
    (tmp_path / GOOD.file).write_bytes(b"x")
    (tmp_path / "broken.certificate.json").write_text("{")
    assert read_certificates(tmp_path) == [GOOD]
    assert json.loads((tmp_path / "Fox-Q8_0.certificate.json").read_text())["top1_agreement"] == 0.9731


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "qwen35"])
def test_rules_lead_there_and_back(name: str) -> None:
    tokenizer = {"pre_tokenizer": pretokenizer_steps(name), "model": {"ignore_merges": name == "llama-bpe"}}
    assert pretokenizer_name(tokenizer) == name


def test_unknown_rules_and_sentencepiece_make_no_tokenizer() -> None:
    assert pretokenizer_steps("deepseek-llm") is None
    metadata = read_metadata(tiny_model(), "tokenizer.")
    assert tokenizer_json(metadata | {"tokenizer.ggml.pre": text("deepseek-llm")}, 10) is None
    assert tokenizer_json(metadata | {"tokenizer.ggml.model": text("llama")}, 10) is None
    odd = metadata | {"tokenizer.ggml.tokens": array([b"\xff"], Kind.STRING)}
    assert tokenizer_json(odd, 10) is None


def test_the_first_token_is_added_where_the_model_wants_it(tmp_path: Path) -> None:
    metadata = read_metadata(tiny_model(), "tokenizer.")
    metadata |= {"tokenizer.ggml.add_bos_token": boolean(True), "tokenizer.ggml.bos_token_id": unsigned(0)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(metadata, 1000)))
    fast: Any = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(tmp_path / "tokenizer.json")
    )
    assert fast.encode("fox")[0] == 0
    assert fast.decode(fast.encode("fox over"), skip_special_tokens=True) == "fox over"


def test_a_tokenizer_we_cannot_write_stays_as_gguf(tmp_path: Path) -> None:
    folder = folder_from_tiny(tmp_path / "student")
    data = (folder / "tokenizer.gguf").read_bytes()
    assert data.count(b"gpt-2") == 1
    (folder / "tokenizer.gguf").write_bytes(data.replace(b"gpt-2", b"viper"))
    write_folder(folder, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.gguf").read_bytes() == (folder / "tokenizer.gguf").read_bytes()
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_folders_own_tokenizer_is_kept_and_no_code_travels(tmp_path: Path) -> None:
    random_folder(tmp_path / "student", "qwen3")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    (tmp_path / "student" / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "student" / "evil.py").write_text("raise SystemExit")
    shutil.copy(tmp_path / "student" / "model.safetensors", tmp_path / "student" / "other.safetensors")
    write_folder(tmp_path / "student", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "auto_map" not in (tmp_path / "out" / "config.json").read_text()
