"""An archive from a stranger may have any event: commands explain it, and end."""

from __future__ import annotations

from pathlib import Path

import pytest

import projections
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.sealer import Sealer
from eventsched.schema.events import FIELDS
from eventsched.store.transport import Entry
from tests.archive.sealed import CELL
from tests.cli.programs import LIMIT_S, environment
from tests.forked import run_forked

JOB = "t:c0.s1:0:translation:es:none"
OPENED = b'{"tenant":"t","source":"en","targets":["es"]}'
FINALIZED = (
    b'{"utterance":0,"turn":0,"ms":%d,"reason":"final","first":"%s","last":"2-0","count":1,'
    b'"bytes":10,"first_seq":0,"targets":[{"target":"es","delivery_no":0}]}'
)
DISPATCHED = (
    b'{"utterance":0,"target":"es","delivery_no":0,"turn":0,"source":"en","attempt":1,"epoch":1,'
    b'"deadline_ms":%d,"audio_ms":1,"rule":"load","policy":1}'
)
DIGITS = "9" * 5_000
DELIVERED = b'{"utterance":0,"target":"es","delivery_no":0,"outcome":"result"}'


def entry(
    entry_id: str, kind: bytes, data: bytes, job: str = "", node: str = "", cause: str = ""
) -> Entry:
    values = [kind, b"1", b"c0.s1", job.encode(), node.encode(), cause.encode(), b"", data, b""]
    pairs = zip(FIELDS, values, strict=True)
    return entry_id, [part for name, value in pairs for part in (name.encode(), value)]


NO_ERRORS = (
    b"", b"eventsched: no session c0.s1\n", b"eventsched: no job %s\n" % JOB.encode(),
)  # fmt: skip
HISTORIES = {
    "beyond the year 9999": [
        entry("1000000000000-0", b"SessionOpened", OPENED),
        entry("253402300800000-0", b"UtteranceFinalized", FINALIZED % (100, b"1-0")),
        entry("999999999999999-0", b"JobDispatched", DISPATCHED % 10**15, JOB, "c0.n"),
        entry("999999999999999-1", b"ResultDelivered", DELIVERED, JOB),
    ],
    "huge numbers": [
        entry("1700000000000-0", b"SessionOpened", OPENED),
        entry("1700000000001-0", b"UtteranceFinalized", FINALIZED % (2**53 - 1, b"x")),
        entry("1700000000002-0", b"JobDispatched", DISPATCHED % (2**53 - 1), JOB, "c0.n"),
    ],
    "numbers of no 64 bits": [
        entry("1700000000000-0", b"SessionOpened", OPENED),
        entry("1700000000001-0", b"JobDispatched", DISPATCHED % 1, JOB, "c0.n"),
        entry("1700000000002-0", b"UtteranceFinalized", FINALIZED % (10**30, b"x")),
        entry("1700000000003-0", b"ResultDelivered", DELIVERED.replace(b":0", b":%d" % 10**30)),
    ],
    "causes that are no ids": [
        entry("1700000000000-0", b"SessionOpened", OPENED),
        entry("1700000000001-0", b"SessionClosing", b'{"reason":"asked"}', cause="log/room"),
        entry("1700000000002-0", b"SessionClosing", b'{"reason":"asked"}', cause="log/" + DIGITS),
    ],
    "job keys of other forms": [
        entry("1700000000000-0", b"SessionOpened", OPENED),
        entry("1700000000001-0", b"JobDispatched", DISPATCHED % 1, "x", "c0.n"),
        entry("1700000000002-0", b"JobDispatched", DISPATCHED % 1, "c0.s1:0:translation:es"),
        entry("1700000000003-0", b"JobDispatched", DISPATCHED % 1, f"t:c0.s1:{DIGITS}:a:es:none"),
        entry("1700000000004-0", b"JobDispatched", DISPATCHED % 1, JOB, "c0.n"),
    ],
    "data that is no JSON": [
        entry("1700000000000-0", b"SessionOpened", OPENED),
        entry("1700000000001-0", b"SessionClosing", b"{"),
        entry("1700000000002-0", b"ResultRecorded", b"\xff{", JOB),
        entry("1700000000003-0", b"UtteranceFinalized", b'{"ms":"' + DIGITS.encode() + b'"}'),
    ],
    "a job without its utterance": [
        entry("1700000000000-0", b"JobDispatched", DISPATCHED % 0, JOB, "c0.n"),
        entry("1700000000001-0", b"ResultDelivered", DELIVERED, JOB),
    ],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_commands_show_any_history_and_end(tmp_path: Path, history: list[Entry]) -> None:
    folder, key = ArchiveFolder.open_or_create(tmp_path / "archive", None)
    cell = folder.cell(CELL)
    cell.path.mkdir(mode=0o700)
    sealer = Sealer(cell, key, projections.core)
    sealer.add(history)
    sealer.seal()
    environ = environment(tmp_path)
    del environ["EVENTSCHED_DATA"]  # no server
    archive = ("--archive", str(folder.path))
    for command in (
        ("history", *archive),
        ("history", "c0.s1", "--json", *archive),
        ("history", "c0.s1", "--svg", str(tmp_path / "picture.svg"), *archive),
        ("state", "session", "c0.s1", *archive),
        ("why", JOB, *archive),
        ("report", "c0.s1", "-o", str(tmp_path / "report.html"), *archive),
        ("query", "SELECT * FROM events", *archive),
        ("query", "SELECT * FROM jobs", *archive),
        ("query", "SELECT * FROM sessions", *archive),
    ):
        done = run_forked(command, tmp_path, environ, b"", LIMIT_S)
        assert b"Traceback" not in done.stderr, (command, done.stderr)
        assert done.stderr in NO_ERRORS, (command, done.stderr)
        assert done.returncode == (1 if done.stderr else 0)
