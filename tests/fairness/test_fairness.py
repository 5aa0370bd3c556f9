"""Rule 18 as tenants feel it: docs/fairness.md shows what comes out, and what holds of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from eventsched.schema.settings import Settings
from tests.fairness.flood import (
    FLOODING,
    JOB_MS,
    LONG_MS,
    MANY,
    OTHER_NODES,
    OTHER_PRIORITY,
    SHORT_MS,
    STEP_MS,
    TENANTS,
    SecondFlood,
    Waits,
)
from tests.fairness.run import played, table_text
from tests.server_kinds import Server

DOCS = Path(__file__).parents[2] / "docs/fairness.md"


async def test_a_thousandfold_flood_holds_nobody_up_beyond_half_the_waiting_time(
    server: Server, cell: str
) -> None:
    waits = await played(server.url, cell)
    assert table_text(waits) in DOCS.read_text()
    assert_bounded(waits)


async def test_a_flood_of_many_requirements_holds_nobody_up_any_longer(
    server: Server, cell: str
) -> None:
    """1,500 sessions of the flood, each with another set of features."""
    waits = await played(server.url, cell, MANY)
    assert table_text(waits) in DOCS.read_text()
    assert_bounded(waits)


async def test_a_flood_of_utterances_without_audio_holds_nobody_up_any_longer(
    server: Server, cell: str
) -> None:
    """An utterance of a millisecond takes a slot as an utterance of four seconds does."""
    waits = await played(server.url, cell, flood_ms=SHORT_MS, other_ms=LONG_MS)
    assert table_text(waits) in DOCS.read_text()
    assert_bounded(waits)


@pytest.mark.parametrize("second", [OTHER_NODES, OTHER_PRIORITY], ids=["nodes", "priority"])
async def test_a_flood_that_keeps_others_busy_as_well_holds_nobody_up_any_longer(
    server: Server, cell: str, second: SecondFlood
) -> None:
    """Jobs on other nodes, or of another priority, move virtual time past all that waits here."""
    assert_bounded(await played(server.url, cell, flood_ms=SHORT_MS, second=second))


def assert_bounded(waits: Sequence[Waits]) -> None:
    flood = {one.tenant: one for one in waits if one.phase == "flood"}
    a_slot_ms = JOB_MS + STEP_MS
    for one in TENANTS:
        met = flood[one.name]
        assert met.failed == 0
        bound_ms = Settings().queue_timeout_ms // 2 if one.priority else 0
        assert met.max_ms <= bound_ms + a_slot_ms, one
    assert flood[FLOODING.name].failed > flood[FLOODING.name].jobs // 2
