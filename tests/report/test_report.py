"""A report of a session: whole, escaped, and with proofs that are checked without the archive."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from anyio.to_thread import run_sync

from eventsched.archive.proof import check_proof
from eventsched.archive.signing import decode_public
from eventsched.cli.app import main
from eventsched.history.event_text import describe
from eventsched.history.source import HistorySource
from eventsched.projection.installed import load_core
from eventsched.report import content
from eventsched.report.content import SessionReport, read_report
from eventsched.report.page import POLICY, write_page
from eventsched.schema.codec import decode, encode_text
from eventsched.schema.events import Event, Text
from eventsched.schema.keys import name_of
from eventsched.store.cell import Store
from tests.archive.archives import Archived
from tests.fixtures_store import TimedStore
from tests.unit.controls import NASTY, hidden_in

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


class Page(HTMLParser):
    """The text of a page outside of its style, its tags, and the files in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.parts: list[str] = []
        self.files: dict[str, bytes] = {}
        self.loads: list[str] = []
        self._is_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._is_style = tag == "style"
        values = dict(attrs)
        for name in ("href", "src", "xlink:href", "action", "background"):
            if value := values.get(name):
                self.loads.append(value)
        if (name_ := values.get("download")) and (href := values.get("href")):
            self.files[name_] = base64.b64decode(href.partition("base64,")[2])

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._is_style = False

    def handle_data(self, data: str) -> None:
        if not self._is_style:
            self.parts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.parts)


@pytest.fixture(name="archived")
async def _archived(store: TimedStore, tmp_path: Path) -> Archived:
    archived = Archived(store, tmp_path / "archive")
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 4)
    await archived.talk("s2", 1)
    await archived.seal()
    return archived


class OneCell(NamedTuple):
    cells: list[str]
    stores: dict[str, Store]


def server_of(archived: Archived) -> OneCell:
    return OneCell([archived.store.cell], {archived.store.cell: archived.store})


async def report_of(archived: Archived, session: str = "s1") -> SessionReport:
    source = HistorySource(server_of(archived), archived.folder, sets=[load_core()])
    return await read_report(source, archived.store.keys.full(session))


async def test_the_page_has_every_event_text_and_reason(archived: Archived) -> None:
    report = await report_of(archived)
    page = Page(write_page(report))
    log = [event for event in await archived.store.log() if name_of(event.session) == "s1"]
    assert [event.id for event in report.events] == [event.id for event in log]
    for event in log:
        assert event.id in page.text
        assert describe(event) in page.text
    assert len(report.spoken) == 4
    assert {each.outcome for each in report.spoken} == {"result"}
    for each in report.spoken:
        assert each.text is not None
        assert each.text.text
        assert each.text.text in page.text
    assert [len(job.decisions) for job in report.explanations] == [1] * 4
    assert all(job.decisions[0].nodes for job in report.explanations)
    for heading in ("Picture", "What was said", "Events", "Reasons", "Proofs", "Words"):
        assert f"\n{heading}\n" in page.text
    assert page.tags.count("svg") == 1


async def test_the_page_loads_and_runs_nothing(archived: Archived) -> None:
    text = write_page(await report_of(archived))
    page = Page(text)
    assert not {"script", "iframe", "img", "link", "object", "embed", "form"} & set(page.tags)
    assert all(value.startswith("data:application/octet-stream;base64,") for value in page.loads)
    assert POLICY in text
    assert not re.search(r"@import|url\((?!#)", text)


async def test_the_proofs_in_the_page_hold_and_cover_the_sealed_events(
    archived: Archived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await archived.talk("s1", 1)
    report = await report_of(archived)
    page = Page(write_page(report))
    assert page.files.keys() == {"proofs.jsonl", "archive.pub"}
    public = decode_public(page.files["archive.pub"], tmp_path)
    assert public == archived.folder.public
    lines = page.files["proofs.jsonl"].splitlines(keepends=True)
    proven = [decode(*check_proof(line, public, "proof").entry) for line in lines]
    shown = {event.id: event for event in report.events}
    assert len(proven) == len(report.events) - 3
    assert all(shown[event.id] == event for event in proven)
    assert "3 events are not archived yet, and not proven." in page.text
    for name, data in page.files.items():
        (tmp_path / name).write_bytes(data)
    command = next(part for part in page.parts if part.startswith("eventsched audit check-proof"))
    words = [str(tmp_path / word) if word in page.files else word for word in command.split()[1:]]
    assert await run_sync(main, words) == 0
    out = capsys.readouterr().out
    assert out.count("valid: ") == len(proven)
    for event in proven:
        assert describe(event) in out
    changed = page.files["proofs.jsonl"].replace(b'"position":1', b'"position":2', 1)
    (tmp_path / "proofs.jsonl").write_bytes(changed)
    assert await run_sync(main, words) == 1


async def test_a_page_without_proofs_says_so(archived: Archived) -> None:
    await archived.talk("s3", 1)
    page = Page(write_page(await report_of(archived, "s3")))
    assert "none of its events is archived yet" in page.text

    source = HistorySource(server_of(archived), None, [load_core()])
    report = await read_report(source, archived.store.keys.full("s1"))
    page = Page(write_page(report))
    assert "it was made without an archive" in page.text
    assert page.files == {}


async def test_every_text_is_escaped(archived: Archived) -> None:
    report = await report_of(archived)
    nasty = f"{NASTY}</td></style><script>alert(1)</script>"
    text = Text(source_text=nasty, text=nasty)
    events = [
        msgspec.structs.replace(event, body=encode_text(text)) if event.body else event
        for event in report.events
        if isinstance(event, Event)
    ]
    spoken = [msgspec.structs.replace(each, text=text) for each in report.spoken]
    changed = msgspec.structs.replace(report, events=events, spoken=spoken)
    page = Page(write_page(changed))
    assert "script" not in page.tags
    assert "</td></style><script>alert(1)</script>" in page.text
    assert hidden_in(page.text) == set()


async def test_a_long_session_is_bounded(
    archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "EVENTS_MAX", 5)
    monkeypatch.setattr(content, "JOBS_MAX", 1)
    report = await report_of(archived)
    page = Page(write_page(report))
    assert (len(report.events), len(report.explanations)) == (5, 1)
    assert "This page shows the first 5 events." in page.text
    assert "3 jobs more; `eventsched why JOB` explains each." in page.text


async def test_the_command_writes_the_page(
    archived: Archived,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where no server runs
    session, file = archived.store.keys.full("s1"), tmp_path / "report.html"
    words = ["report", session, "-o", str(file), "--archive", str(archived.path)]
    assert await run_sync(main, words) == 0
    assert f"{file}: {session}, " in capsys.readouterr().out
    assert len(Page(file.read_text()).files) == 2
    unknown = ["report", f"{archived.store.cell}.nobody", *words[2:]]
    assert await run_sync(main, unknown) == 1
    assert "no session" in capsys.readouterr().err
    assert await run_sync(main, [*words[:3], str(tmp_path / "no" / "x"), *words[4:]]) == 1
    assert "cannot write" in capsys.readouterr().err
