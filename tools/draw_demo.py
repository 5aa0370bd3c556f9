"""Draw docs/demo.svg: the screen of the demo during a real run.

    .venv/bin/python tools/draw_demo.py

It needs the extra `speech`. The Spanish column has translations if apertium and apertium-eng-spa
are installed.
"""

from __future__ import annotations

import copy
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from rich.console import Console, Group
from rich.terminal_theme import MONOKAI
from rich.text import Text

from eventsched.demo.run import run_demo
from eventsched.demo.scoreboard import Board, Row
from eventsched.demo.view import jobs_table, sessions_table
from eventsched.store.connection import open_connection

TARGET = Path(__file__).parents[1] / "docs" / "demo.svg"
COLUMNS = 124
# Rich's own frame, without fonts from other hosts.
FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" xml:space="preserve">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


class Frames:
    """Stores the board with the most results while other jobs wait and others are in progress."""

    def __init__(self) -> None:
        self.best: Board | None = None
        self._results = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Do nothing."""

    def say(self, text: str) -> None:
        print(text)

    def update(self, board: Board, rows: Sequence[Row]) -> None:
        steps = [row.step for row in board.rows.values()]
        if "waiting" in steps and "working" in steps and steps.count("result") >= self._results:
            self.best, self._results = copy.deepcopy(board), steps.count("result")


async def main() -> None:
    os.environ.pop("EVENTSCHED_URL", None)
    frames = Frames()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"queue_timeout_ms": 60_000}
        async with open_connection(data=Path(folder), settings=settings) as connection:
            verdict = await run_demo(connection, frames)
    if not verdict.is_good or frames.best is None:
        raise SystemExit("\n".join(verdict.problems) or "no frame with jobs in progress")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Group(sessions_table(frames.best), Text(), jobs_table(frames.best)))
    console.save_svg(str(TARGET), title="make demo", theme=MONOKAI, code_format=FORMAT)
    print(TARGET)


anyio.run(main)
