"""A project's pictures: kept by what they hold, found again, refused when they are not what they were."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from kdstudio.errors import BadInput
from kdstudio.models import pictures

PNG = b"\x89PNG\r\n\x1a\n and more"


def test_a_picture_is_kept_once_and_found_again(tmp_path: Path) -> None:
    name = pictures.keep(tmp_path, PNG)
    assert name == pictures.keep(tmp_path, PNG)
    assert [path.name for path in (tmp_path / pictures.FOLDER).iterdir()] == [name.removeprefix(pictures.PREFIX)]
    found = pictures.picture_at(name, tmp_path)
    assert (found.kind, found.data) == ("image/png", PNG)
    assert pictures.picture_at(found.data_url, None) == found


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"), (b"RIFF0000WEBPVP8", "image/webp"), (b"%PDF", "")],
)
def test_what_it_is_is_told_by_its_bytes(data: bytes, kind: str) -> None:
    assert pictures.kind_of(data) == kind


def test_what_is_no_picture_or_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="cannot be kept"):
        pictures.keep(tmp_path, b"ssh-rsa AAAA")
    monkeypatch.setattr(pictures, "MOST_BYTES", 10)
    with pytest.raises(BadInput, match="cannot be kept"):
        pictures.keep(tmp_path, PNG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["picture:../project.db", "picture:" + "0" * 32 + ".png", "picture:"])
def test_a_picture_that_is_not_there_is_said_and_no_other_file_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "project.db").write_bytes(PNG)
    with pytest.raises(BadInput, match="not in the project"):
        pictures.picture_at(name, tmp_path)
    with pytest.raises(BadInput, match="not in the project"):
        pictures.picture_at(name, None)


def test_a_changed_picture_is_not_taken(tmp_path: Path) -> None:
    name = pictures.keep(tmp_path, PNG)
    (tmp_path / pictures.FOLDER / name.removeprefix(pictures.PREFIX)).write_bytes(PNG + b"!")
    with pytest.raises(BadInput, match="was changed"):
        pictures.picture_at(name, tmp_path)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("data:image/tiff;base64,AAAA", "do not see such pictures"),
        ("data:image/png;base64,!!!", "cannot be read"),
        ("cat.png", "cannot be read"),
        ("data:image/png;base64," + base64.b64encode(b"x" * 200).decode(), "too large"),
    ],
)
def test_addresses_that_cannot_be_sent(address: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        pictures.picture_at(address, None, 100)
