"""The scripts of the archive: how far it is, what may go, and that nothing else ever goes."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventsched.archive.commands import LEASE_MS, ArchiveCommands, ArchiveState, Trimmed
from eventsched.errors import CommandRefused, InvalidMessage
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import SetLease
from eventsched.roles.trimmer import Trimmer
from eventsched.schema.events import ArchiveAbandoned, StreamTrimmed
from eventsched.schema.ids import format_id, ms_of, parse_id
from eventsched.store.client import Client, open_client
from eventsched.store.transport import Arg, RedisTransport
from tests.archive.archives import LOST, Archived
from tests.fixtures_store import START_MS, TimedStore
from tests.scripts.calls import contents
from tests.scripts.cell_state import zset
from tests.scripts.headers import HeaderCheckingTransport
from tests.scripts.jobs_of import finish_one, speak
from tests.server_kinds import Server


@pytest.fixture
def commands(store: TimedStore, redis: Client, archived: Archived) -> ArchiveCommands:
    """Each call is held to its script's header."""
    store.transport = archived.views.transport = HeaderCheckingTransport(redis, redis)
    return ArchiveCommands(archived.views)


async def lease_epoch(commands: ArchiveCommands, owner: str = "a") -> int:
    lease = await commands.acquire(owner, 10_000)
    assert isinstance(lease, SetLease)
    return lease.epoch


async def record(
    commands: ArchiveCommands, epoch: int, to: str, start: str = "0-0", **more: str
) -> str:
    key, audio_to = more.pop("of", "key"), more
    return await commands.record(
        epoch,
        start=start,
        to=to,
        fingerprint=key,
        processed=3,
        audio=bool(audio_to),
        audio_to=audio_to,
    )


# --- read_archive ---------------------------------------------------------------------------------


async def test_the_state_of_a_cell_without_an_archive(commands: ArchiveCommands) -> None:
    state = await commands.read_state()
    assert state == ArchiveState(START_MS, 0, 0, "", "", "", "", 50_000, 300_000)
    assert state.trimmed == 0


async def test_the_state_has_log_and_archive_at_one_time(
    commands: ArchiveCommands, archived: Archived
) -> None:
    await archived.talk()
    log = await archived.log()
    assert await record(commands, await lease_epoch(commands), log[2][0]) == "recorded"
    state = await commands.read_state()
    assert (state.first, state.last, state.added) == (log[0][0], log[-1][0], len(log))
    assert (state.to, state.fingerprint) == (log[2][0], "key")
    assert await commands.read_state() == state, "reading changes nothing"


# --- record_seal ----------------------------------------------------------------------------------


async def test_the_archive_is_a_consumer_group_at_the_last_sealed_entry(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await archived.talk()
    log = await archived.log()
    assert await record(commands, await lease_epoch(commands), log[2][0]) == "recorded"
    (group,) = await redis.xinfo_groups(archived.store.keys.log)
    assert (group["name"], group["last-delivered-id"]) == (b"archive", log[2][0].encode())
    assert group["pending"] == 0
    assert (group["entries-read"], group["lag"]) == (3, len(log) - 3)


async def test_the_archive_has_one_consumer_its_owner(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await archived.talk()
    epoch = await lease_epoch(commands)
    log = archived.store.keys.log
    (consumer,) = await redis.xinfo_consumers(log, "archive")
    first = consumer["name"]
    await redis.xreadgroup("archive", "another-program", {log: ">"}, count=4)
    archived.store.tick(LEASE_MS)
    assert isinstance(await commands.acquire("next", LEASE_MS), SetLease)
    assert first != b"next"
    assert [each["name"] for each in await redis.xinfo_consumers(log, "archive")] == [b"next"]
    (group,) = await redis.xinfo_groups(log)
    assert (group["last-delivered-id"], group["pending"]) == (b"0-0", 0)
    assert await record(commands, epoch, (await archived.log())[2][0]) == "fenced"


async def test_the_lag_of_an_archive_that_begins_after_a_trim_is_right_at_once(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await archived.talk()
    log = archived.store.keys.log
    await redis.xtrim(log, maxlen=4, approximate=False)
    epoch = await lease_epoch(commands)
    for _ in range(2):  # the group of the lease, then of the archive
        (group,) = await redis.xinfo_groups(log)
        assert group["lag"] == 4
        assert await record(commands, epoch, "0-0") == "recorded"


async def test_recording_a_seal_again_changes_nothing(
    commands: ArchiveCommands, archived: Archived
) -> None:
    await archived.talk()
    log = await archived.log()
    epoch = await lease_epoch(commands)
    assert await record(commands, epoch, log[2][0]) == "recorded"
    state = await commands.read_state()
    assert await record(commands, epoch, log[2][0]) == "recorded"
    assert await commands.read_state() == state
    assert await record(commands, epoch, log[4][0], start=log[2][0]) == "recorded"


async def test_a_seal_needs_the_lease_the_end_of_the_archive_and_its_key(
    commands: ArchiveCommands, archived: Archived
) -> None:
    await archived.talk()
    log = await archived.log()
    epoch = await lease_epoch(commands)
    assert await record(commands, epoch + 1, log[2][0]) == "fenced"
    assert await record(commands, epoch, log[2][0]) == "recorded"
    state = await commands.read_state()
    assert await record(commands, epoch, log[4][0], start=log[1][0]) == "moved"
    assert await record(commands, epoch, log[4][0], start=log[2][0], of="other") == "other"
    archived.store.tick(10_001)
    later = await lease_epoch(commands, "b")
    assert await record(commands, epoch, log[4][0], start=log[2][0]) == "fenced"
    assert (await commands.read_state()).to == state.to
    assert await record(commands, later, log[4][0], start=log[2][0]) == "recorded"


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        (1, "", "from"), (1, "5", "from"), (2, "x-1", "to"), (2, "0-0", "to"), (4, "-1", "passed"),
        (4, "1.5", "passed"), (5, "2", "audio"), (7, "", "chunk"), (7, "5", "chunk"),
    ],
)  # fmt: skip
async def test_a_malformed_call_is_refused_and_changes_nothing(
    commands: ArchiveCommands, archived: Archived, place: int, value: str, field: str
) -> None:
    await archived.talk()
    epoch = await lease_epoch(commands)
    args: list[Arg] = [epoch, "0-1", "5-0", "key", "3", "1", "s1", "5-0"]
    args[place] = value
    with pytest.raises(InvalidMessage) as refused:
        await commands.store.run("record_seal", *args)
    assert refused.value.fields["field"] == field
    assert (await commands.read_state()).to == ""


async def test_audio_is_trimmed_only_after_it_is_archived(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    epoch = await lease_epoch(commands)
    assert await record(commands, epoch, "0-0", s1="0-0") == "recorded"
    await archived.talk("s1", 2)
    key = archived.store.keys.audio("s1")
    chunks = [entry_id for entry_id, _ in await archived.store.read_range(key, "-", "+", 100)]
    assert len(chunks) == 4, "results are delivered, and the audio is still stored"
    log = await archived.log()
    assert await record(commands, epoch, log[-1][0], s1=chunks[1]) == "recorded"
    chunks_left = [entry_id for entry_id, _ in await archived.store.read_range(key, "-", "+", 100)]
    assert chunks_left == chunks[2:]
    assert await record(commands, epoch, log[-1][0], log[-1][0], s1=chunks[3]) == "recorded"
    assert await redis.xlen(key) == 0
    assert await record(commands, epoch, log[-1][0], log[-1][0], unknown=chunks[3]) == "recorded"


async def test_a_session_retires_when_its_audio_is_archived(
    commands: ArchiveCommands, archived: Archived
) -> None:
    store = archived.store
    epoch = await lease_epoch(commands)
    await record(commands, epoch, "0-0", s1="0-0")
    await archived.talk("s1")
    await archived.close("s1")
    store.tick(3_600_000)
    await store.timers()
    assert "SessionRetired" not in await store.types()
    assert len(await store.read_range(store.keys.audio("s1"), "-", "+", 10)) == 2
    last = (await archived.log())[-1][0]
    assert await record(commands, epoch, last, s1="0-0") == "recorded"
    store.tick(60_000)
    await store.timers()
    assert "SessionRetired" in await store.types()


async def test_archived_audio_is_trimmed_when_its_outcome_has_ended(
    commands: ArchiveCommands, archived: Archived
) -> None:
    """Later calls know the last archived chunk of a session."""
    store = archived.store
    epoch, node = await lease_epoch(commands), await store.join()
    await record(commands, epoch, "0-0", s1="0-0")
    await speak(store, "s1")
    audio = store.keys.audio("s1")
    ((chunk, _),) = await store.read_range(audio, "-", "+", 10)
    last = (await archived.log())[-1][0]
    assert await record(commands, epoch, last, s1=chunk) == "recorded"
    assert len(await store.read_range(audio, "-", "+", 10)) == 1, "its outcome is open"
    await store.dispatch()
    await finish_one(store, node)
    assert await store.read_range(audio, "-", "+", 10) == []


async def test_if_audio_is_not_archived_it_is_trimmed_as_usual(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    assert await record(commands, await lease_epoch(commands), "0-0") == "recorded"
    await archived.talk("s1", 2)
    assert await redis.xlen(archived.store.keys.audio("s1")) == 0


# --- abandon_archive ------------------------------------------------------------------------------


async def lost(commands: ArchiveCommands, archived: Archived) -> tuple[int, str]:
    """An archive of a part of the log, without a lease: its epoch and its end."""
    await archived.talk()
    epoch, to = await lease_epoch(commands), (await archived.log())[2][0]
    assert await record(commands, epoch, to) == "recorded"
    archived.store.tick(10_001)
    return epoch, to


async def test_an_abandoned_archive_is_removed_and_the_log_records_it(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    _, to = await lost(commands, archived)
    assert await commands.abandon("key", **LOST) == "ok"
    state = await commands.read_state()
    assert (state.to, state.fingerprint) == ("", "")
    assert await redis.xinfo_groups(archived.store.keys.log) == []
    (event,) = await archived.store.log("ArchiveAbandoned")
    assert event.data == ArchiveAbandoned(of="key", to=to, gone=0, **LOST)


async def test_abandoning_again_changes_nothing(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await lost(commands, archived)
    await commands.abandon("key", **LOST)
    before = await contents(redis, archived.store)
    assert await commands.abandon("key", **LOST) == "duplicate"
    assert await contents(redis, archived.store) == before


@pytest.mark.parametrize("of", ["", "other", "KEY", "key "])
async def test_another_archive_is_not_abandoned(
    commands: ArchiveCommands, archived: Archived, redis: Client, of: str
) -> None:
    await lost(commands, archived)
    before = await contents(redis, archived.store)
    with pytest.raises(InvalidMessage, match="INVALID_MESSAGE key: the key of this archive, key"):
        await commands.abandon(of, **LOST)
    assert await contents(redis, archived.store) == before


async def test_an_archive_with_a_lease_is_not_abandoned(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await lost(commands, archived)
    await lease_epoch(commands, "b")
    before = await contents(redis, archived.store)
    with pytest.raises(InvalidMessage, match="archive: one that no archiver has a lease on"):
        await commands.abandon("key", **LOST)
    assert await contents(redis, archived.store) == before
    archived.store.tick(9_999)
    with pytest.raises(InvalidMessage):
        await commands.abandon("key", **LOST)
    archived.store.tick(1)
    assert await commands.abandon("key", **LOST) == "ok"


async def test_an_archiver_that_resumes_after_its_archive_was_abandoned_is_fenced(
    commands: ArchiveCommands, archived: Archived
) -> None:
    epoch, to = await lost(commands, archived)
    await commands.abandon("key", **LOST)
    for start in ("0-0", to):
        assert await record(commands, epoch, to, start=start) == "fenced"
    assert (await commands.read_state()).fingerprint == ""
    assert await lease_epoch(commands, "b") > epoch
    assert (
        await record(commands, await lease_epoch(commands, "b"), "0-0", of="another") == "recorded"
    )


async def test_the_event_has_the_number_of_lost_entries(
    commands: ArchiveCommands, archived: Archived
) -> None:
    ids = await settled(archived)
    await record(commands, await lease_epoch(commands), ids[-20])
    _, trimmed = await trimmed_to(commands, archived)
    archived.store.tick(10_000)
    await commands.abandon("key", **LOST)
    (event,) = await archived.store.log("ArchiveAbandoned")
    assert event.data == ArchiveAbandoned(of="key", to=ids[-20], gone=trimmed.count, **LOST)


# --- trim_log -------------------------------------------------------------------------------------


async def trimmed_to(commands: ArchiveCommands, archived: Archived) -> tuple[str, Trimmed]:
    """The first entry of the log after trimming, and the reply."""
    trimmed = await commands.trim()
    return (await archived.log())[0][0], trimmed


async def settled(archived: Archived, utterances: int = 20) -> list[str]:
    """The ids of a log that `core` has processed."""
    await archived.set(log_keep_ms=0)
    await archived.talk("s1", utterances)
    await archived.project()
    return [entry_id for entry_id, _ in await archived.log()]


async def test_entries_that_all_consumers_have_processed_are_trimmed_with_an_event(
    commands: ArchiveCommands, archived: Archived
) -> None:
    ids = await settled(archived)
    await record(commands, await lease_epoch(commands), ids[-20])
    first, trimmed = await trimmed_to(commands, archived)
    assert trimmed.count == ids.index(first) > 0
    (event,) = await archived.store.log("StreamTrimmed")
    expected = StreamTrimmed(stream="log", before=first, count=trimmed.count, total=trimmed.count)
    assert event.data == expected
    again, more = await trimmed_to(commands, archived)
    assert (again, more.count) == (first, 0), "nothing else may be trimmed: no event, no change"
    assert len(await archived.store.log("StreamTrimmed")) == 1


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_user_that_may_not_read_the_log_trims_nothing(
    commands: ArchiveCommands, archived: Archived, server: Server, redis: Client
) -> None:
    ids = await settled(archived)
    await record(commands, await lease_epoch(commands), ids[-20])
    user = archived.store.cell
    await redis.execute_command(
        "ACL", "SETUSER", user, "reset", "on", ">pw", "~*", "+@all", "-xrange"
    )
    client = await open_client(server.url.replace("://", f"://{user}:pw@"))
    transport, archived.views.transport = archived.views.transport, RedisTransport(client, client)
    try:
        with pytest.raises(CommandRefused):
            await commands.trim()
    finally:
        archived.views.transport = transport
        await client.aclose()
        await redis.execute_command("ACL", "DELUSER", user)
    assert [entry_id for entry_id, _ in await archived.log()] == ids


async def test_without_archive_and_retention_nothing_is_trimmed(
    commands: ArchiveCommands, archived: Archived
) -> None:
    ids = await settled(archived)
    archived.store.tick(10_000_000)
    assert (await trimmed_to(commands, archived))[0] == ids[0]


async def test_without_an_archive_entries_older_than_the_retention_are_trimmed(
    commands: ArchiveCommands, archived: Archived
) -> None:
    ids = await settled(archived)
    await archived.set(log_retention_ms=1_000)
    archived.store.at_ms = ms_of(ids[40]) + 1_000
    first, trimmed = await trimmed_to(commands, archived)
    assert trimmed.before == format_id(ms_of(ids[40]), 0)
    assert parse_id(ids[0]) < parse_id(first) <= parse_id(ids[40])


async def test_entries_that_are_not_archived_are_not_trimmed(
    commands: ArchiveCommands, archived: Archived
) -> None:
    """The retention applies only without an archive: a dead archiver loses nothing."""
    ids = await settled(archived)
    await archived.set(log_retention_ms=1_000)
    await record(commands, await lease_epoch(commands), ids[30])
    archived.store.tick(100_000_000)
    first, trimmed = await trimmed_to(commands, archived)
    assert parse_id(first) <= parse_id(ids[31])
    assert trimmed.count


async def test_entries_that_a_set_has_not_saved_are_not_trimmed(
    commands: ArchiveCommands, archived: Archived
) -> None:
    """A user's set counts like `core` as soon as it has a lease."""
    ids = await settled(archived)
    await record(commands, await lease_epoch(commands), ids[-1])
    late = ProjectionSet("late", ())
    assert isinstance(await archived.views.acquire(late, "x", 10_000), SetLease)
    assert (await trimmed_to(commands, archived))[0] == ids[0]


async def test_entries_that_a_running_rebuild_has_not_folded_are_not_trimmed(
    commands: ArchiveCommands, archived: Archived
) -> None:
    ids = await settled(archived)
    await record(commands, await lease_epoch(commands), ids[-1])
    await archived.views.acquire_revision("rebuild-core", "x", 10_000)
    assert (await trimmed_to(commands, archived))[0] == ids[0]
    archived.store.tick(9_999)
    assert (await trimmed_to(commands, archived))[0] == ids[0]
    archived.store.tick(1)  # it died
    assert (await trimmed_to(commands, archived))[0] != ids[0]


async def test_entries_younger_than_the_minimum_age_are_not_trimmed(
    commands: ArchiveCommands, archived: Archived
) -> None:
    ids = await settled(archived)
    await record(commands, await lease_epoch(commands), ids[-1])
    await archived.set(log_keep_ms=600_000)
    assert (await trimmed_to(commands, archived))[0] == ids[0]
    archived.store.tick(600_001)
    assert (await trimmed_to(commands, archived))[0] != ids[0]


async def test_an_empty_cell_has_nothing_to_trim(commands: ArchiveCommands) -> None:
    assert await commands.trim() == Trimmed(0, False, "0-0")


# --- trim_node_indexes ----------------------------------------------------------------------------


async def test_trimmed_entries_leave_the_indexes_of_their_nodes(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await settled(archived)
    gone = await archived.store.join("n2", targets=["fr"])
    await archived.store.drain_node(gone.node, gone.epoch, within_ms=1_000)
    archived.store.tick(10)
    await archived.talk("s2", 30)
    await archived.project()
    keys = archived.store.keys
    assert set(await redis.zrange(keys.node_index_starts, 0, -1)) == {b"n1", b"n2"}
    assert await commands.trim_node_indexes() == 0
    ids = [entry_id for entry_id, _ in await archived.log()]
    await record(commands, await lease_epoch(commands), ids[-20])
    await commands.trim()
    left = await archived.log()
    assert await commands.trim_node_indexes() == 2
    of_node = [entry_id.encode() for entry_id, fields in left if fields[9].endswith(b".n1")]
    assert await redis.lrange(keys.node_index("n1"), 0, -1) == of_node
    assert await redis.exists(keys.node_index("n2")) == 0
    assert await redis.zrange(keys.node_index_starts, 0, -1, withscores=True) == [
        (b"n1", parse_id(of_node[0].decode())[0])
    ]
    assert await commands.trim_node_indexes() == 0


async def test_the_indexes_of_many_nodes_are_trimmed_in_several_calls(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await archived.talk()
    keys = archived.store.keys
    names = [f"old{n}" for n in range(150)]
    await redis.zadd(keys.node_index_starts, dict.fromkeys(names, 1))
    assert await commands.store.run("trim_node_indexes") == 64
    assert await commands.trim_node_indexes() == 150 - 64
    assert await redis.exists(keys.node_index_starts) == 0


# --- drop_session_indexes -------------------------------------------------------------------------


async def test_an_index_is_dropped_when_all_its_entries_are_trimmed(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    await settled(archived)
    await archived.talk("s2", 20)
    await archived.project()
    keys = archived.store.keys
    assert await commands.drop_session_indexes() == 0
    ids = [entry_id for entry_id, _ in await archived.log()]
    await record(commands, await lease_epoch(commands), ids[-20])
    await commands.trim()
    first = (await archived.log())[0][0]
    last: Any = (await redis.lrange(keys.session_index("s1"), 0, -1))[-1]
    assert parse_id(first) > parse_id(last.decode())
    assert await commands.drop_session_indexes() == 1
    assert await redis.exists(keys.session_index("s1")) == 0
    assert await redis.exists(keys.session_index("s2")) == 1
    assert await commands.drop_session_indexes() == 0


async def test_a_session_that_speaks_again_before_the_drop_keeps_its_index(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    ids = await settled(archived)
    await record(commands, await lease_epoch(commands), ids[-1])
    await commands.trim()
    await archived.talk("s1")
    await archived.project()
    assert await commands.drop_session_indexes() == 0
    last: Any = (await redis.lrange(archived.store.keys.session_index("s1"), -1, -1))[0]
    assert parse_id(last.decode()) > parse_id(ids[-1])


async def test_the_index_of_a_session_that_goes_on_loses_trimmed_ids(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    """Twice as many as it gets, and one: so it ends as long as its part of the log."""
    ids, epoch = await settled(archived), await lease_epoch(commands)
    key = archived.store.keys.session_index("s1")
    await record(commands, epoch, ids[-1])
    await commands.trim()
    lengths = [await redis.llen(key)]
    for _ in range(20):
        await archived.talk("s1")
        await archived.project()
        lengths.append(await redis.llen(key))
    first = (await archived.log())[0][0]
    ids_left: list[Any] = await redis.lrange(key, 0, -1)
    listed = [each.decode() for each in ids_left]
    assert lengths[1] < lengths[0]
    assert listed == [each for each in listed if parse_id(each) >= parse_id(first)]
    session = archived.store.keys.full("s1")
    events = [event.id for event in await archived.store.log() if event.session == session]
    assert listed == events


async def test_a_trimmer_drops_the_indexes_after_a_trim_of_one_that_stopped(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    keys, _ = archived.store.keys, await settled(archived)
    await archived.talk("s2", 20)
    await archived.project()
    ids = [entry_id for entry_id, _ in await archived.log()]
    await record(commands, await lease_epoch(commands), ids[-20])
    assert (await commands.trim()).count  # and the process stops
    assert await Trimmer(archived.views).step() == 0, "it finds nothing to trim"
    assert await redis.zrange(keys.session_index_ends, 0, -1) == [b"s2"]
    assert await redis.exists(keys.session_index("s1")) == 0
    assert await redis.exists(keys.session_index("s2")) == 1


async def test_callers_at_once_drop_each_index_once_and_no_other(
    commands: ArchiveCommands, archived: Archived, redis: Client
) -> None:
    """Each call drops at most 256 indexes, so the calls of several trimmers alternate."""
    await archived.talk("s1")
    keys, ended, current = archived.store.keys, 700, 300
    for number in range(ended + current):
        ms = 1 if number < ended else START_MS + 1_000_000
        await redis.zadd(keys.session_index_ends, {f"x{number}": ms})
        await redis.rpush(keys.session_index(f"x{number}"), format_id(ms, 0))
    counts: list[int] = []

    async def drop() -> None:
        counts.append(await commands.store.run("drop_session_indexes"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(drop)
    assert sorted(counts) == [0, 0, ended - 2 * 256, 256, 256]
    names = {f"x{number}" for number in range(ended, ended + current)}
    assert set(await zset(archived.store, keys.session_index_ends)) == names
    assert [await redis.exists(keys.session_index(f"x{n}")) for n in (0, ended - 1, ended)] == [
        0, 0, 1,
    ]  # fmt: skip
