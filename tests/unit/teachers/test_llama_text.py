"""An answer's text: stop strings across tokens, and characters across tokens."""

from __future__ import annotations

from kdstudio.teachers.llama_text import AnswerText


def feed(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[str, list[str], bool]:
    text, shown = AnswerText(stops), []
    for piece in pieces:
        ended = text.add(piece)
        shown.append(text.fresh(final=ended))
        if ended:
            return text.text, shown, True
    shown.append(text.fresh(final=True))
    return text.text, shown, False


def test_a_stop_string_across_tokens() -> None:
    assert feed([b"one ", b"tw", b"o three"], ("two",)) == ("one ", ["on", "e ", ""], True)


def test_the_first_of_several_stop_strings() -> None:
    assert feed([b"a|b#c"], ("#", "|"))[0] == "a"


def test_an_empty_stop_string_is_none() -> None:
    assert feed([b"text"], ("",)) == ("text", ["text", ""], False)


def test_characters_across_tokens_are_shown_whole() -> None:
    data = "größe 🐭".encode()
    text, shown, _ = feed([bytes([byte]) for byte in data])
    assert text == "größe 🐭"
    assert "".join(shown) == "größe 🐭"
    assert all("\ufffd" not in piece for piece in shown)


def test_half_a_character_at_the_end_is_left_out_and_a_broken_one_replaced() -> None:
    assert feed(["ok🐭".encode()[:-1]])[0] == "ok"
    assert feed([b"ok\xff!"])[0] == "ok\ufffd!"


def test_long_answers_are_not_searched_again_and_again() -> None:
    text = AnswerText(("END",))
    for _ in range(200_000):
        assert not text.add(b"abcd")
    assert text.add(b" END")
    assert len(text.text) == 800_001
