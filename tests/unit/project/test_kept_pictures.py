"""Pictures of imported rows go into the project, and come out again whole."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from kdstudio.models.pictures import FOLDER, PREFIX, address_of
from kdstudio.project import Project
from kdstudio.project.dataset import export_file
from kdstudio.project.exchange import import_file

PNG, GIF = b"\x89PNG\r\n\x1a\n and more", b"GIF89a and more"


def address_in(messages: Any) -> str:
    return next(url for part in messages[0]["content"] if (url := address_of(part)))


def row(url: str) -> str:
    parts = [{"type": "text", "text": f"what is {url[-9:]}?"}, {"type": "image_url", "image_url": {"url": url}}]
    return json.dumps({"messages": [{"role": "user", "content": parts}]}) + "\n"


def test_written_out_pictures_and_files_beside_the_rows_are_kept_and_nothing_else(tmp_path: Path) -> None:
    inside = tmp_path / "rows"
    inside.mkdir()
    (inside / "cat.gif").write_bytes(GIF)
    (inside / "notes.txt").write_text("no picture")
    (tmp_path / "outside.gif").write_bytes(GIF + b"!")
    inline = "data:image/png;base64," + base64.b64encode(PNG).decode()
    left = ["../outside.gif", str(tmp_path / "outside.gif"), "https://example.org/a.gif", "missing.gif"]
    (inside / "rows.jsonl").write_text("".join(map(row, [inline, "cat.gif", *left, "notes.txt"])))
    with Project.create(tmp_path / "p.kdstudio") as project:
        report = import_file(project, inside / "rows.jsonl")
        assert (report.prompts, report.rejected) == (6, 1)
        assert report.reject_file is not None
        assert "cannot be kept" in report.reject_file.read_text("utf-8")
        addresses = [address_in(prompt.messages) for prompt in project.rows.prompts()]
        assert all(address.startswith(PREFIX) for address in addresses[:2])
        assert addresses[2:] == left
        kept = {path.read_bytes() for path in (project.folder / FOLDER).iterdir()}
        assert kept == {PNG, GIF}
        assert export_file(project, tmp_path / "out.jsonl", "openai_messages", kind="prompt", status="") == 6
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert address_in(written[0]["messages"]) == inline
    assert address_in(written[1]["messages"]).startswith("data:image/gif;base64,")
    assert address_in(written[2]["messages"]) == left[0]
