"""Languages of real sentences, and no guess where there is nothing to go by."""

from __future__ import annotations

import pytest

from kdstudio.quality.language import language_of

SENTENCES = {
    "en": "The quick brown fox jumps over the lazy dog and runs into the forest.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund und läuft in den Wald.",
    "fr": "Le renard brun rapide saute par-dessus le chien paresseux et court dans la forêt.",
    "es": "El rápido zorro marrón salta sobre el perro perezoso y corre hacia el bosque.",
    "it": "La veloce volpe marrone salta sopra il cane pigro e corre nella foresta.",
    "pt": "A rápida raposa marrom pula sobre o cachorro preguiçoso e não volta mais.",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку и бежит в лес.",
    "zh": "敏捷的棕色狐狸跳过懒狗,然后跑进森林里去了。",
    "ja": "素早い茶色の狐がのろまな犬を飛び越えて森の中へ走っていきます。",
    "ko": "빠른 갈색 여우가 게으른 개를 뛰어넘어 숲으로 달려갑니다.",
    "ar": "الثعلب البني السريع يقفز فوق الكلب الكسول ويركض إلى الغابة.",
}


@pytest.mark.parametrize(("code", "sentence"), SENTENCES.items())
def test_sentences(code: str, sentence: str) -> None:
    found, confidence = language_of(sentence)
    assert found == code
    assert 0.3 < confidence <= 1.0


@pytest.mark.parametrize(
    "text", ["", "Yes.", "42", "12345678901234567890 + 1 = ?", "```python\nfor item in some_list: print(item)\n```"]
)
def test_too_little_to_go_by(text: str) -> None:
    assert language_of(text) == ("", 0.0)


def test_code_inside_does_not_decide_and_length_does_no_harm() -> None:
    code = "```python\n" + "for item in range(10): print(item)\n" * 20 + "```\n"
    assert language_of(code + SENTENCES["de"])[0] == "de"
    assert language_of(SENTENCES["fr"] * 5_000)[0] == "fr"
    assert language_of("\ud800\0" * 50_000)[0] == ""
