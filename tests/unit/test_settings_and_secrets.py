"""Settings survive damage; keys are found, redacted and never written by us."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdstudio import secrets, settings


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSTUDIO_HOME", str(tmp_path))


def test_settings_are_kept_and_damage_gives_defaults(tmp_path: Path) -> None:
    settings.save(settings.Settings(theme="dark", threads=3))
    assert settings.load().theme == "dark"
    assert settings.thread_count() == 3
    (tmp_path / "config" / "settings.toml").write_bytes(b"\xff\x00 theme = ")
    assert settings.load() == settings.Settings()


def test_recent_projects_are_newest_first_and_at_most_ten(tmp_path: Path) -> None:
    for number in range(12):
        settings.remember_project(tmp_path / f"p{number}")
    settings.remember_project(tmp_path / "p5")
    recent = settings.load().recent_projects
    assert len(recent) == 10
    assert recent[0].endswith("p5")


def test_a_key_is_found_in_the_session_then_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_TEST_KEY", "from-environment")
    assert secrets.find("KD_TEST_KEY") == "from-environment"
    assert secrets.store("KD_TEST_KEY", "from-session", "session") == "session"
    assert secrets.find("KD_TEST_KEY") == "from-session"
    secrets.forget("KD_TEST_KEY")
    assert secrets.find("KD_TEST_KEY") == "from-environment"
    assert secrets.find("") == ""


def test_keys_are_redacted() -> None:
    text = "Authorization: Bearer abcdefghijkl; key sk-proj-1234567890ab; mine canary-123"
    redacted = secrets.redact(text, ("canary-123",))
    assert not any(part in redacted for part in ("abcdefghijkl", "1234567890ab", "canary-123"))
