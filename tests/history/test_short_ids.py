"""The id of a session may be shortened to a beginning that no other session has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import InvalidMessage
from eventsched.history import short_ids
from eventsched.history.short_ids import expand
from eventsched.history.source import HistorySource
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from tests.archive.archives import Archived
from tests.fixtures_store import TimedStore

NAMES = ("5f0c1d2e", "5f0c99", "abcdef01", "abcd")


@pytest.fixture
async def source(store: TimedStore, redis: Client) -> HistorySource:
    """A cell with these sessions in its index."""
    ends: dict[Any, Any] = {name: at for at, name in enumerate(NAMES)}
    await redis.zadd(store.keys.session_index_ends, ends)
    for name in NAMES:
        await redis.rpush(store.keys.session_index(name), "1-1")
    facts = await check_server(redis)
    return HistorySource(Connection("", facts, store.transport, {store.cell: store}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("5f0c1", "5f0c1d2e"),
        ("abcde", "abcdef01"),
        ("5f0c9/es/2", "5f0c99/es/2"),
        ("5f0c9:u3:es", "5f0c99:u3:es"),
    ],
)
async def test_a_beginning_of_one_session_names_it(
    source: HistorySource, store: TimedStore, text: str, whole: str
) -> None:
    assert await expand(source, text) == store.keys.full(whole)
    assert await expand(source, store.keys.full(text)) == store.keys.full(whole)


@pytest.mark.parametrize(
    "text",
    ["abcd", "abcd:0:es", "5f0", "ffff", "", "acme:c0.5f0c9:0:translation:es:none", "a b c d"],
)
async def test_any_other_text_stays_as_it_is(source: HistorySource, text: str) -> None:
    """A whole id, a beginning that is too short or of no session, and the key of a job."""
    assert await expand(source, text) == text


async def test_sessions_that_only_an_archive_has_are_found(
    store: TimedStore, tmp_path: Path
) -> None:
    archived = Archived(store, tmp_path / "archive")
    await archived.set(archive_entries_max=8)
    for name in NAMES:
        await archived.talk(name, 2)
    await archived.seal()
    alone = HistorySource(None, ArchiveFolder.open(archived.path))
    full = store.keys.full
    assert await expand(alone, "5f0c1") == full("5f0c1d2e")
    assert await expand(alone, full("abcde") + ":0:es") == full("abcdef01") + ":0:es"
    assert await expand(alone, "abcd") == "abcd"
    assert await expand(alone, "ffff") == "ffff"
    with pytest.raises(InvalidMessage, match="2 sessions begin with '5f0c'"):
        await expand(alone, "5f0c")


async def test_a_beginning_of_several_sessions_is_refused_with_their_ids(
    source: HistorySource, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short_ids, "PAGE", 1)
    with pytest.raises(InvalidMessage) as refused:
        await expand(source, "5f0c")
    full = store.keys.full
    assert refused.value.fields["limit"] == (
        f"2 sessions begin with '5f0c': {full('5f0c1d2e')}, {full('5f0c99')}"
    )
