"""The display of the demo: live tables on a terminal, one line for each step elsewhere.

Owns: the appearance of the demo.
Must not: read events or judge them (scoreboard.py).
Read next: run.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from eventsched.demo.scoreboard import Board, Row
from eventsched.formatting import NONE, duration
from eventsched.tables import Text, join_lines, table

COLOURS = {"waiting": "yellow", "working": "cyan", "recorded": "cyan"}
STEPS = ("WAITED", "WORKED", "HELD", "TOTAL")
"""Until the dispatch; on the node; until earlier results are delivered; all of it."""


class Show(Protocol):
    """The display while the demo runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...  # fmt: skip

    def say(self, text: str) -> None:
        """Show a message."""

    def update(self, board: Board, rows: Sequence[Row]) -> None:
        """Show that these rows are new or have reached another step."""


def show_for(console: Console) -> Show:
    """Live tables if the console is a terminal, else lines."""
    return LiveTables(console) if console.is_terminal else Lines(console)


class Lines:
    """One line for each step."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def update(self, board: Board, rows: Sequence[Row]) -> None:
        for row in rows:
            place = f"{row.speaker:7} u{row.utterance} → {row.target}  {row.step:8}"
            self._console.print(f"{place}  {_details(row)}".rstrip(), soft_wrap=True)


class LiveTables:
    """Both tables, redrawn in place; their last state remains."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, vertical_overflow="visible")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._live.console.print(Text(text, "dim"))  # above the tables, where it stays

    def update(self, board: Board, rows: Sequence[Row]) -> None:
        self._live.update(Group(sessions_table(board), Text(), jobs_table(board)))


def sessions_table(board: Board) -> Table:
    """The sessions with their transcripts."""
    sessions = table("SPEAKER", "SESSION", "STATE", "SAID")
    for session, speaker in board.speakers.items():
        rows = [row for row in board.rows.values() if row.speaker == speaker]
        transcripts = {row.utterance: row.transcript for row in rows}
        state = board.states.get(session, "opening")
        sessions.add_row(speaker, session, state, _lines(transcripts))
    return sessions


def _lines(transcripts: dict[int, str]) -> RenderableType:
    return join_lines(Text(text or "…") for _, text in sorted(transcripts.items()))


def jobs_table(board: Board) -> Table:
    """The jobs with the node and the time of each step."""
    jobs = table("SAID BY", "INTO", "SPEECH", "NODE", *STEPS, "TEXT", right=("SPEECH", *STEPS))
    for row in board.rows.values():
        steps = (row.waited_ms, row.worked_ms, row.held_ms, row.total_ms)
        jobs.add_row(
            f"{row.speaker} {row.utterance}",
            row.target,
            duration(row.audio_ms),
            row.node or NONE,
            *map(duration, steps),
            _outcome_text(row),
        )
    return jobs


def _outcome_text(row: Row) -> Text:
    """Return the translation of a result, otherwise the job's current step with its error code."""
    if row.outcome == "result":
        return Text(NONE if row.translation is None else row.translation)
    return Text(f"{row.step} {row.code}".rstrip(), COLOURS.get(row.step, "red"))


def _details(row: Row) -> str:
    """The details of the last step."""
    if row.outcome == "result":
        text = f"“{row.transcript}”"
        if row.translation is not None and row.translation != row.transcript:
            text += f" → “{row.translation}”"
        return f"{text}  for {', '.join(row.to)}, {duration(row.total_ms)} after its end"
    if row.outcome:
        return row.code
    if row.recorded_ms:
        return f"by {row.node} in {duration(row.worked_ms)}"
    if row.dispatched_ms:
        return f"on {row.node}, found in {duration(row.waited_ms)}"
    return f"{duration(row.audio_ms)} of speech"
