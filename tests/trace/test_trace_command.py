"""`eventsched trace` end to end: real processes, on every server, and on three masters."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from eventsched.testing import LocalCluster
from eventsched.trace.rttm import SAMPLES
from tests.server_kinds import Server

FILE = SAMPLES / "standup.rttm"


def _trace(url: str, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "eventsched.cli", "--url", url, "--json", "trace", str(FILE),
         "--speed", "10", *more],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _is_as_expected(told: dict[str, Any]) -> None:
    # mia 3 utterances, leo 1 and two that overlap, ida one of 11.3 s: two pieces.
    # mia hears en, leo es, ida en: the others of mia hear two languages, of leo one, of ida two.
    assert (told["sessions"], told["utterances"]) == (3, 7)
    assert told["jobs"] == told["jobs_expected"] == told["results"] == 3 * 2 + 2 * 1 + 2 * 2
    wrong = ("failed", "expired", "missing", "lost", "duplicates", "out_of_order", "truncated")
    assert [told[name] for name in wrong] == [0] * len(wrong)


def test_a_replay_comes_out_as_the_file_says(server: Server, cell: str) -> None:
    assert cell  # sweeps what the replay leaves
    _is_as_expected(_trace(server.url, "--nodes", "2"))


def test_a_replay_over_three_masters_and_three_cells(cluster3: LocalCluster) -> None:
    _is_as_expected(_trace(cluster3.url, "--nodes", "3", "--cells", "3"))
