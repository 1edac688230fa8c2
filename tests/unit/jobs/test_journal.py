"""The journal: encoding, torn tails, hostile lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.errors import KnownError
from kdstudio.jobs.events import KINDS, MAXIMUM_LINE_BYTES, Answer, Finished, Metric, Progress, Row, decode, encode
from kdstudio.jobs.journal import JOURNAL_NAME, JournalReader, JournalWriter, read_journal


@given(st.text(), st.floats(allow_nan=False), st.integers(0, 2**40))
def test_what_is_encoded_decodes_the_same(text: str, number: float, count: int) -> None:
    for event in (
        Answer("k", text, "stop", count, 2),
        Metric(count, {"loss": number}),
        Row("response", {"text": text}),
    ):
        line = decode(encode(event, 7))
        assert line is not None
        assert (line.seq, line.event) == (7, event)


def test_finished_spreads_its_result_and_reads_it_back() -> None:
    data = json.loads(encode(Finished({"rows": 3, "tokens": 9}), 1))
    assert (data["event"], data["rows"], data["tokens"]) == ("finished", 3, 9)
    line = decode(encode(Finished({"rows": 3}, stopped=True), 1))
    assert line is not None
    assert line.event == Finished({"rows": 3}, stopped=True)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"v": 1, "seq": 1, "event": "progress"}',  # torn: no newline
        b"not json\n",
        b"[1, 2]\n",
        b'{"v": 1, "seq": "x", "event": "progress"}\n',
        b'{"v": 1, "seq": 1, "event": "from the future"}\n',
        b"[" * 100_000 + b"\n",
        b'{"v": 1, "seq": 1, "event": "row", "row": "' + b"x" * MAXIMUM_LINE_BYTES + b'"}\n',
    ],
)
def test_what_is_no_event_is_stepped_over(raw: bytes) -> None:
    assert decode(raw) is None


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(KnownError, match="newer"):
        decode(b'{"v": 2, "seq": 1, "event": "progress"}\n')


def test_every_kind_has_its_name() -> None:
    assert all(name == kind.event for name, kind in KINDS.items())


def test_a_torn_tail_is_cut_off_and_numbers_go_on(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    writer.write(Progress(1, 3))
    writer.write(Progress(2, 3), durable=True)
    writer.close()
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        again = JournalWriter(tmp_path)
        again.write(Progress(3, 3))
        again.close()
        lines = list(read_journal(tmp_path))
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
        assert lines[-1].event == Progress(3, 3)
        assert len(lines) == whole[:cut].count(b"\n") + 1


def test_a_reader_follows_a_writer_and_ignores_half_lines(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path)
    assert reader.read() == []
    with (tmp_path / JOURNAL_NAME).open("ab") as stream:
        line = encode(Progress(1, 2), 1)
        stream.write(line[:10])
        stream.flush()
        assert reader.read() == []
        stream.write(line[10:])
        stream.flush()
        assert [item.seq for item in reader.read()] == [1]
    assert reader.read() == []


def test_an_event_that_is_too_long_is_refused_when_written() -> None:
    with pytest.raises(KnownError, match="too long"):
        encode(Answer("k", "x" * MAXIMUM_LINE_BYTES), 1)
