"""The lines of `history` are written without rich, in the bytes that a console would print."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

import pytest
from msgspec import structs
from rich.console import Console

from eventsched.cli import output
from eventsched.cli.timeline import STYLES, Timeline
from eventsched.projection.fold import FailedEvent
from eventsched.schema.events import Event, NodeDraining, RoomLeft
from eventsched.tables import Text
from tests.unit.controls import NASTY, VISIBLE

PARTS = [(f"{style} {NASTY}\n", style) for style in ("", "dim", "bold", *set(STYLES.values()))]
TERMINALS = [
    {"NO_COLOR": "1"},
    {"FORCE_COLOR": "1", "TERM": "xterm"},
    {"FORCE_COLOR": "1", "TERM": "xterm-256color"},
    {"FORCE_COLOR": "1", "COLORTERM": "truecolor"},
    {"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"},
]


@pytest.fixture(params=TERMINALS, ids=str)
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """The console of commands, 80 columns wide, on a terminal of the parameter or on none."""
    for name in ("FORCE_COLOR", "NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"COLUMNS": "80"} | request.param).items():
        monkeypatch.setenv(name, value)
    output.console.cache_clear()
    yield output.console()
    output.console.cache_clear()


def test_a_line_has_the_bytes_that_the_console_prints(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    output.write_line(*PARTS)
    written = capsys.readouterr().out
    console.file = StringIO()
    printed = Text()
    for text, style in PARTS:
        printed.append(text, style)
    console.print(printed, no_wrap=True, overflow="ignore", crop=False)
    assert written == console.file.getvalue()
    assert written.count(VISIBLE) == len(PARTS)


# --- the timeline -------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A console of 80 columns without a terminal: 36 columns for descriptions."""
    monkeypatch.setenv("COLUMNS", "80")
    output.console.cache_clear()
    yield
    output.console.cache_clear()


def shown(capsys: pytest.CaptureFixture[str], *events: Event | FailedEvent) -> list[str]:
    """The lines of these events, without those of the head."""
    timeline = Timeline("title")
    for event in events:
        timeline.show(event)
    head, day, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["TIME", "AFTER", "EVENT"]
    assert day.endswith("  title")
    return rest


def left(room: str, ms: int = 0) -> Event:
    return Event(id=f"{ms}-0", type="RoomLeft", session="c0.s", data=RoomLeft(room=room))


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("cause", ["log/room", "log/" + "9" * 5_000, "log/1", "log/5-", "/", "x"])
def test_a_cause_that_is_no_id_has_no_delay(capsys: pytest.CaptureFixture[str], cause: str) -> None:
    (line,) = shown(capsys, structs.replace(left("hall"), cause=cause))
    assert line.split() == ["00:00:00.000", "RoomLeft", "hall"]


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize(
    ("room", "expected"),
    [
        ("short", ["short"]),
        ("", [""]),
        ("x" * 36, ["x" * 36]),
        ("a" * 30 + " " + "b" * 30, ["a" * 30, "b" * 30]),
        ("a" * 20 + "  " + "b" * 30, ["a" * 20, "b" * 30]),
        ("x" * 80, ["x" * 36, "x" * 36, "x" * 8]),
        ("first " + "y" * 40, ["first", "y" * 36, "yyyy"]),
        ("tab\there", ["tab\\there"]),
        ("\x1b" * 10, ["\\x1b" * 9, "\\x1b"]),
    ],
)
def test_a_description_is_split_between_words_or_within_a_word_that_fills_a_line(
    capsys: pytest.CaptureFixture[str], room: str, expected: list[str]
) -> None:
    written = shown(capsys, left(room))
    assert [line[44:] for line in written] == expected
    assert all(line == line.rstrip() for line in written)
    assert all(not line[:44].strip() for line in written[1:])


@pytest.mark.usefixtures("lines")
def test_an_entry_that_no_decoder_reads_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(capsys, FailedEvent("7-0", None, (), f"unknown {NASTY}"[:20]))
    assert line[25:44].strip() == "unreadable"


@pytest.mark.usefixtures("lines")
def test_each_day_and_each_delay_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    day_ms, job = 86_400_000, "t:c0.s:0:translation:es:none"
    draining = NodeDraining(epoch=1)
    events = [
        Event(id=f"{ms}-0", type="NodeDraining", job=job, node="c0.n", data=draining)
        for ms in (day_ms, day_ms + 250, 3 * day_ms)
    ]
    first, second, day, third = shown(capsys, *events)
    assert first[12:23].strip() == ""
    assert second[12:23].strip() == "250 ms"
    assert day.endswith("  title")
    assert third[12:23].strip() == "47 h 59 min"
