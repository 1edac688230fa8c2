"""The search box's language, and what the inspector reads of a row."""

from __future__ import annotations

import pytest

from kdstudio.project import NewPrompt
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.data_detail import read_detail
from kdstudio.ui.widgets.data_filter import Filter, read_filter


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("fox in the box", Filter("fox in the box")),
        ("tag:a fox status:pending", Filter("fox", tag="a", status="pending")),
        ('teacher:"My teacher"', Filter(teacher="My teacher")),
        ("notag:a", Filter("notag:a")),
        ("teacher:", Filter()),
    ],
)
def test_the_filter_language(text: str, found: Filter) -> None:
    assert read_filter(text) == found


def test_details_of_long_rows_are_bounded(project_session: Session) -> None:
    project = project_session.project
    assert project is not None
    project.rows.add_prompts([NewPrompt([{"role": "user", "content": "x" * 500_000}])])
    detail = read_detail(project, "prompt", 1)
    assert len(detail.raw) == 200_000
    assert detail.text is not None
    assert len(detail.text) == 500_000
