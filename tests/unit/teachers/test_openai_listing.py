"""What an endpoint lists, and what it cannot do."""

from __future__ import annotations

import pytest

from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.openai_api import OpenAITeacher
from tests.loopback import Loopback


def teacher_at(url: str) -> OpenAITeacher:
    return OpenAITeacher(TeacherSpec("api", "openai", url=url, model="tiny"), {})


def test_models_are_listed() -> None:
    with Loopback() as server:
        server.models = ("tiny", "large")
        assert teacher_at(server.url).models() == ["tiny", "large"]


def test_scoring_is_refused_in_words() -> None:
    with pytest.raises(KnownError, match="no log-probs"):
        teacher_at("http://localhost:1").score([([1], [2])], 5)
