"""A user's read model is loaded by the entry point of its package, as a set of its own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from eventsched.projection.protocol import ProjectionSet, load_sets
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from examples.minutes import Day
from tests.fixtures_store import TimedStore


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectionSet:
    """The set of an installed package, loaded by its entry point."""
    metadata = tmp_path / "speech_minutes-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: speech-minutes\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[eventsched.projections]\nminutes = examples.minutes:Minutes\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    core, minutes = load_sets()
    assert (core.name, minutes.name) == ("core", "minutes")
    return minutes


async def test_a_projection_of_another_package_is_folded_as_a_set_of_its_own(
    store: TimedStore, own: ProjectionSet
) -> None:
    session = await store.open()
    for seq in range(3):
        await store.say(session, seq, ms=500, end_of_utterance=True)
    store.tick(24 * 3_600_000)
    resumed = await store.open("s2")
    await store.say(resumed, 0, ms=40, end_of_utterance=True)
    views = ProjectionStore(store.transport, store.cell)
    projector = Projector(views, own)
    while (await projector.step()).state != "idle":
        pass
    assert await views.active_revision("minutes") == "1.1"
    days = [f"1970-01-0{number}" for number in (1, 2, 3)]
    records = await views.load("minutes", "1.1", days)
    folded = [msgspec.msgpack.decode(each["v"], type=Day) for each in records[:2]]
    assert folded == [Day(utterances=3, audio_ms=1_500), Day(utterances=1, audio_ms=40)]
    assert records[2] == {}
