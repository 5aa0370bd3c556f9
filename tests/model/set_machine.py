"""The scripts of projector, rebuild, archiver and trimming compared with their model, with time
moved by hand.

Two projectors of one set, one of a newer version of the set, two rebuilds and an archiver call in
any order, with epochs, checkpoints and revisions that may be stale, while the log is trimmed.
Owns: the kinds of step; after each the same reply and the same content of every key.
Read next: sets.py (what is right), test_model.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import event as count
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from eventsched.archive.commands import ArchiveCommands, Trimmed
from eventsched.errors import InvalidMessage
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import Changes, DeadLetter, ProjectionStore, Put, Save, SetLease
from eventsched.schema.ids import START, parse_id
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.operator_commands import Act
from eventsched.store.replies import fields_of
from projections.node import Nodes
from projections.session import Sessions
from tests.model import sets
from tests.model.sets import Sets
from tests.model.wire import Wire, run

START_MS = 1_000_000
LEASE_MS = 1_500
LIVE, BUILD, ARCHIVE = "duo", "rebuild-duo", "archive"
KEEP_MS = 1_000


class NewNodes(Nodes):
    """The next version of a projection."""

    version = 2


DUO = ProjectionSet(LIVE, (Sessions(), Nodes()))
NEW = ProjectionSet(LIVE, (Sessions(), NewNodes()))
PARTS = ("session", "node")
which = st.integers(0, 5)
"""Of few things each is met often."""


class SetMachine(RuleBasedStateMachine):
    """One cell. `wire` is set by the test that runs it."""

    wire: Wire

    def __init__(self) -> None:
        super().__init__()
        self.at_ms = START_MS
        cell = f"p{secrets.token_hex(7)}"
        self.store = Store(self.wire, cell, now_ms=lambda: self.at_ms)
        self.views = ProjectionStore(self.wire, cell, now_ms=lambda: self.at_ms)
        self.archive = ArchiveCommands(self.views)
        self.sets: Sets
        self.epochs: dict[str, list[int]] = {LIVE: [0], BUILD: [0], ARCHIVE: [0]}
        self.writes = 0

    @initialize(
        retention_ms=st.sampled_from([0, 2_000, 2_000]), cache_live_state=st.sampled_from([1, 0])
    )
    def cell_is_there(self, retention_ms: int, cache_live_state: int) -> None:
        settings = Settings(
            log_keep_ms=KEEP_MS,
            log_retention_ms=retention_ms,
            archive_entries_max=70,
            archive_window_ms=9_000,
            cache_live_state=cache_live_state,
        )
        self.sets = Sets(settings)
        values = msgspec.to_builtins(settings)
        run(self.store.configure_cell(values, overwrite=False, manual_clock=True))
        self.something_happens()
        self.hold(DUO, "a", LEASE_MS)

    def teardown(self) -> None:
        names = self.wire.client.keys(f"{self.store.keys.prefix}*")
        if names:
            self.wire.call("DEL", *names)

    def both(self, name: str, actual: Any, expected: Any) -> Any:
        """The reply, the same from the script and from the model."""
        assert actual == expected, f"{name}: the script says {actual}, the model {expected}"
        assert self._actual() == self._expected(), name
        count(f"{name}: {_word(actual)}")
        return actual

    def decided(self, name: str, call: Callable[[], Any], decide: Callable[[Sets], Any]) -> Any:
        self.sets.now_ms = self.at_ms
        return self.both(name, call(), decide(self.sets))

    # --- stored content ---------------------------------------------------------------------------

    def _actual(self) -> dict[str, Any]:
        call, keys = self.wire.call, self.store.keys
        content: dict[str, Any] = {}
        for name in self.wire.names(f"{keys.prefix}*"):
            kind = name.removeprefix(keys.prefix).partition(":")[0]
            if kind in ("checkpoint", "active_revision"):
                content[name] = call("GET", name).decode()
            elif kind in ("view", "lease", "archive"):
                content[name] = fields_of(call("HGETALL", name))
            elif kind == "view_ids":
                content[name] = [item.decode() for item in call("ZRANGE", name, 0, -1)]
            elif kind in ("session_index", "node_index"):
                content[name] = [item.decode() for item in call("LRANGE", name, 0, -1)]
            elif kind in ("session_index_ends", "node_index_starts"):
                ends = call("ZRANGE", name, 0, -1, "WITHSCORES")
                content[name] = {member.decode(): int(ms) for member, ms in ends}
        content["dead_letters"] = [
            fields_of(fields) for _, fields in call("XRANGE", keys.dead_letters, "-", "+")
        ]
        content["log"] = [entry_id.decode() for entry_id, _ in call("XRANGE", keys.log, "-", "+")]
        content["groups"] = {
            (name := group[b"name"].decode()): (
                group[b"last-delivered-id"].decode(),
                group[b"entries-read"],
                {
                    consumer[b"name"].decode()
                    for consumer in map(fields_of, call("XINFO", "CONSUMERS", keys.log, name))
                },
                group[b"pending"],
            )
            for group in map(fields_of, call("XINFO", "GROUPS", keys.log))
        }
        return content

    def _expected(self) -> dict[str, Any]:
        keys, s = self.store.keys, self.sets
        content: dict[str, Any] = {keys.checkpoint(k): v for k, v in s.checkpoints.items()}
        content |= {
            keys.active_revision(projection): revision for projection, revision in s.live.items()
        }
        content |= {keys.view(p, b, e): _named(f) for (p, b, e), f in s.records.items()}
        for projection, revision, entity in sorted(s.listed):
            content.setdefault(keys.view_ids(projection, revision), []).append(entity)
        content |= {keys.session_index(session): ids for session, ids in s.indexes.items()}
        ends = {session: parse_id(ids[-1])[0] for session, ids in s.indexes.items()}
        content |= {keys.session_index_ends: ends} if ends else {}
        content |= {keys.node_index(node): ids for node, ids in s.node_indexes.items()}
        starts = {node: parse_id(ids[0])[0] for node, ids in s.node_indexes.items()}
        content |= {keys.node_index_starts: starts} if starts else {}
        for name, hold in s.holds.items():
            fields: dict[str, Any] = {"owner": hold.owner, "epoch": hold.epoch}
            fields |= {"until": hold.until_ms}
            fields |= {} if hold.passed is None else {"passed": hold.passed}
            content[keys.lease(name)] = _named(fields)
        content["dead_letters"] = [
            _named({"from": "log", "id": i, "k": k, "d": d, "reason": r, "partial": 0})
            for i, k, d, r in s.dead_letters
        ]
        content |= {keys.archive: _named(dict(s.archive))} if s.archive else {}
        content["log"] = s.log[s.gone :]
        content["groups"] = {
            name: (group.position, group.read, group.consumers, 0)
            for name, group in s.groups.items()
        }
        return content

    # --- time and the log -------------------------------------------------------------------------

    @rule(times=st.integers(1, 4))
    def much_happens(self, times: int) -> None:
        for _ in range(times):
            self.something_happens()
            self.at_ms += 10

    def something_happens(self) -> None:
        """Some script appends an event."""
        keys = self.store.keys
        is_raised = bool(self.wire.call("HGET", keys.counters, "backpressure"))
        run(self.store.set_backpressure("dead_letters", is_active=not is_raised, seen=1, limit=1))
        self.sets.now_ms = self.at_ms
        self.sets.append()

    @rule(ms=st.sampled_from([1, 700, LEASE_MS - 1, LEASE_MS, 4_000]))
    def tick(self, ms: int) -> None:
        self.at_ms += ms

    # --- holding a set ----------------------------------------------------------------------------

    @rule(
        owner=st.sampled_from("ab"),
        is_new=st.sampled_from([False, False, False, True]),
        lease_ms=st.sampled_from([LEASE_MS, LEASE_MS, LEASE_MS, 0]),
    )
    def acquire(self, owner: str, is_new: bool, lease_ms: int) -> None:
        self.hold(NEW if is_new else DUO, owner, lease_ms)

    def hold(self, of: ProjectionSet, owner: str, lease_ms: int) -> None:
        got = self.decided(
            "acquire",
            lambda: run(self.views.acquire(of, owner, lease_ms)),
            lambda s: sets.acquire(s, of, owner, lease_ms),
        )
        if isinstance(got, SetLease):
            self.epochs[LIVE].append(got.epoch)

    @precondition(lambda self: not self.is_held(BUILD) or self.at_ms % 4 == 0)
    @rule(owner=st.sampled_from("xy"), lease_ms=st.sampled_from([LEASE_MS, LEASE_MS, 0]))
    def acquire_revision(self, owner: str, lease_ms: int) -> None:
        got = self.decided(
            "acquire revision",
            lambda: run(self.views.acquire_revision(BUILD, owner, lease_ms)),
            lambda s: sets.acquire_revision(s, BUILD, owner, lease_ms),
        )
        if isinstance(got, SetLease):
            self.epochs[BUILD].append(got.epoch)

    def is_held(self, name: str) -> bool:
        hold = self.sets.holds.get(name)
        return hold is not None and hold.until_ms > self.at_ms

    def epoch(self, name: str, back: int) -> int:
        """Mostly the newest epoch, else the one before it."""
        return self.epochs[name][-2 if back > 3 else -1]

    # --- folding ----------------------------------------------------------------------------------

    @precondition(lambda self: len(self.epochs[LIVE]) > 1)
    @rule(
        back=which,
        part=which,
        is_stale=which,
        has_poison=st.booleans(),
        is_dropped=which,
        first=st.sampled_from([0, 0, 0, 1]),
    )
    def save(
        self,
        back: int,
        part: int,
        is_stale: int,
        has_poison: bool,
        is_dropped: int,
        first: int,
    ) -> None:
        """Save the events after the checkpoint, or some of them; the caller may have lost its
        lease, or the first entries.
        """
        start = self.sets.checkpoints.get(LIVE, START)
        behind = self.behind(start)
        folded = behind[: part + 1] if part < 4 else behind
        revisions = [(name, self.sets.live.get(name, "1.1")) for name in PARTS]
        if is_stale == 5:
            revisions[1] = ("node", "1.9")
        batch = Save(
            projection_set=LIVE,
            group=LIVE,
            epoch=self.epoch(LIVE, back),
            start="9-9" if is_stale == 4 else start,
            first=behind[first] if first < len(behind) else start,
            to=folded[-1] if folded else start,
            count=len(folded),
            lease_ms=LEASE_MS,
            changes=[
                Changes(
                    *revision,
                    [self._put(revision, part, is_dropped)] if n == part % 2 else [],
                    [f"e{is_dropped}"] if n == is_dropped % 2 else [],
                )
                for n, revision in enumerate(revisions)
            ],
            indexes={"s1": folded} if folded else {},
            node_indexes={f"n{part % 2}": folded[:3]} if folded else {},
            dead_letters=[DeadLetter(folded[0], "X", b"{}", "poison")]
            if has_poison and folded
            else [],
        )
        self.decided("save", lambda: run(self.views.save(batch)), lambda s: sets.save(s, batch))

    def behind(self, start: str) -> list[str]:
        """The entries that a fold at `start` reads next."""
        return [
            entry_id
            for entry_id in self.sets.log[self.sets.gone :]
            if parse_id(entry_id) > parse_id(start)
        ]

    def _put(self, revision: tuple[str, str], entity: int, dropped: int = -1) -> Put:
        self.writes += 1
        fields = {"v": f"{self.writes}".encode(), f"f{self.writes % 3}": b"x"}
        is_new = entity == dropped or (*revision, f"e{entity}") not in self.sets.records
        return Put(f"e{entity}", f"{self.writes}-0", fields, is_new)

    @rule()
    def fold_all(self) -> None:
        """Save everything, as an undisturbed projector does."""
        self.hold(DUO, "a", LEASE_MS)
        self.save(0, 5, 0, False, 0, 0)

    @rule(name=st.sampled_from([LIVE, ARCHIVE]), consumer=st.sampled_from("abz"), count=which)
    def read_group(self, name: str, consumer: str, count: int) -> None:
        """The owner reads, or a process that was suspended, or another program."""
        if name not in self.sets.groups or not count:
            return
        call = ("XREADGROUP", "GROUP", name, consumer, "COUNT", count, "NOACK", "STREAMS")

        def read() -> list[str]:
            streams = dict(self.wire.call(*call, self.store.keys.log, ">") or [])
            return [entry_id.decode() for entries in streams.values() for entry_id, _ in entries]

        creates = self.wire.version >= (7, 2)
        self.decided(
            "read group",
            read,
            lambda s: sets.read_group(s, name, consumer, count, creates=creates),
        )

    @rule(name=st.sampled_from([LIVE, ARCHIVE]), back=which)
    def move_group(self, name: str, back: int) -> None:
        """An operator moves the group by hand."""
        if name not in self.sets.groups:
            return
        position = self.sets.log[-1 - min(back, len(self.sets.log) - 1)]
        log = self.store.keys.log
        self.decided(
            "move group",
            lambda: bool(self.wire.call("XGROUP", "SETID", log, name, position)) and None,
            lambda s: sets.move_group(s, name, position),
        )

    # --- revisions --------------------------------------------------------------------------------

    def new_revisions(self) -> list[tuple[str, str]]:
        return [(name, f"1.{self._next(name)}") for name in PARTS]

    def _next(self, name: str) -> int:
        return int(self.sets.live.get(name, "1.0").partition(".")[2]) + 1

    @precondition(lambda self: len(self.epochs[BUILD]) > 1)
    @rule(back=which, part=which, is_stale=which, catches_up=st.booleans())
    def save_revision(self, back: int, part: int, is_stale: int, catches_up: bool) -> None:
        """A rebuild saves up to the checkpoint of the live set, or less."""
        start = self.sets.checkpoints.get(BUILD, START)
        live = self.sets.checkpoints.get(LIVE, START)
        revisions = self.new_revisions()
        if is_stale == 5:
            revisions = [(name, self.sets.live.get(name, "1.1")) for name in PARTS]
        batch = Save(
            projection_set=BUILD,
            group="",
            epoch=self.epoch(BUILD, back),
            start="9-9" if is_stale == 4 else start,
            to=live if catches_up else start,
            lease_ms=LEASE_MS,
            changes=[
                Changes(*revision, [self._put(revision, part)] if n == part % 2 else [])
                for n, revision in enumerate(revisions)
            ],
        )
        self.decided(
            "save revision", lambda: run(self.views.save(batch)), lambda s: sets.save(s, batch)
        )

    @precondition(lambda self: len(self.epochs[BUILD]) > 1)
    @rule(back=which, request=which)
    def start_rebuild(self, back: int, request: int) -> None:
        epoch, act = self.epoch(BUILD, back), self.act(request)
        revisions = self.new_revisions()
        self.decided(
            "start rebuild",
            lambda: run(self.views.start_rebuild(BUILD, epoch, act, revisions)),
            lambda s: sets.start_rebuild(s, BUILD, epoch, act, revisions),
        )

    def act(self, request: int) -> Act:
        return Act(by="ann@host", why="a mended read model", request=f"r{request}")

    @precondition(lambda self: len(self.epochs[BUILD]) > 1)
    @rule(back=which, is_stale=which, request=which)
    def switch(self, back: int, is_stale: int, request: int = 0) -> None:
        epoch, act = self.epoch(BUILD, back), self.act(request)
        revisions = [
            (name, self.sets.live.get(name, ""), new) for name, new in self.new_revisions()
        ]
        if is_stale == 5:
            revisions[1] = ("node", "1.77", revisions[1][2])
        self.decided(
            "switch",
            lambda: run(self.views.promote_revisions(LIVE, BUILD, epoch, act, revisions)),
            lambda s: sets.switch(s, LIVE, BUILD, epoch, act, revisions),
        )

    @precondition(lambda self: len(self.epochs[BUILD]) > 1)
    @rule(back=which)
    def drop_old_revisions(self, back: int) -> None:
        epoch = self.epoch(BUILD, back)

        def dropped() -> int | None:
            cursor, total = "0", 0
            while True:
                parts = DUO.projections
                step = run(self.views.drop_revision(BUILD, epoch, LEASE_MS, cursor, parts))
                if step is None:
                    return None
                cursor, total = step[0], total + step[1]
                if cursor == "0":
                    return total

        self.decided("drop", dropped, lambda s: sets.drop_all(s, BUILD, epoch, LEASE_MS, DUO))

    @rule()
    def rebuild(self) -> None:
        """A complete rebuild without interruption."""
        self.acquire_revision("x", LEASE_MS)
        if len(self.epochs[BUILD]) < 2:
            return
        self.start_rebuild(0, 0)
        self.save_revision(0, 0, 0, True)
        self.switch(0, 0, 0)
        self.drop_old_revisions(0)

    # --- trimming ------------------------------------------------------------------------------

    @precondition(lambda self: not self.is_held(ARCHIVE))
    @rule(owner=st.sampled_from("pq"))
    def acquire_archive(self, owner: str) -> None:
        of = ProjectionSet(ARCHIVE, ())
        got = self.decided(
            "acquire archive",
            lambda: run(self.archive.acquire(owner, LEASE_MS)),
            lambda s: sets.acquire(s, of, owner, LEASE_MS),
        )
        if isinstance(got, SetLease):
            self.epochs[ARCHIVE].append(got.epoch)

    @precondition(lambda self: len(self.epochs[ARCHIVE]) > 1)
    @rule(back=which, further=st.integers(0, 6), is_stale=which)
    def seal(self, back: int, further: int, is_stale: int) -> None:
        log, start = self.sets.log, self.sets.archive.get("to", START)
        at = min(len(log), (log.index(start) + 1 if start != START else 0) + further)
        fields: dict[str, Any] = {
            "start": "1-1" if is_stale == 5 and at else start,
            "to": log[at - 1] if at else START,
            "fingerprint": "other" if is_stale == 4 and self.sets.archive else "key",
            "processed": at,
            "audio": False,
        }
        epoch = self.epoch(ARCHIVE, back)
        self.decided(
            "seal",
            lambda: run(self.archive.record(epoch, audio_to={}, **fields)),
            lambda s: sets.record(s, epoch, **fields),
        )

    @rule()
    def seal_all(self) -> None:
        """Seal everything, as an undisturbed archiver does."""
        self.acquire_archive("p")
        if len(self.epochs[ARCHIVE]) > 1:
            self.seal(0, 6, 0)

    @rule(of=st.sampled_from(["key", "key", "other"]), is_later=st.booleans())
    def abandon(self, of: str, is_later: bool) -> None:
        """The archive is abandoned, unless an archiver has a lease on it."""
        self.at_ms += LEASE_MS if is_later else 0

        def refused_field() -> str:
            try:
                return run(self.archive.abandon(of, why="lost", by="ann@host"))
            except InvalidMessage as refused:
                return refused.fields["field"]

        self.decided("abandon", refused_field, lambda s: sets.abandon(s, of))

    @rule()
    def look(self) -> None:
        self.decided("look", lambda: run(self.archive.read_state()), sets.look)

    @rule(
        times=st.integers(1, 4),
        ms=st.sampled_from([10, KEEP_MS, 2 * KEEP_MS]),
        is_done_with=st.sampled_from([True, True, False]),
    )
    def trim(self, times: int, ms: int, is_done_with: bool) -> None:
        self.much_happens(times)
        if is_done_with:
            self.fold_all()
            self.seal_all()
        self.at_ms += ms
        self.decided("trim", lambda: run(self.archive.trim()), sets.trim)
        self.decided(
            "trim node indexes",
            lambda: run(self.archive.trim_node_indexes()),
            sets.trim_node_indexes,
        )
        self.decided(
            "drop indexes",
            lambda: run(self.archive.drop_session_indexes()),
            sets.drop_session_indexes,
        )


def _named(fields: dict[str, Any]) -> dict[bytes, bytes]:
    return {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in fields.items()
    }


def _word(reply: Any) -> str:
    if reply is None:
        return "fenced"
    if isinstance(reply, Trimmed):
        return "some" if reply.count else "none"
    if isinstance(reply, tuple):
        return str(reply[0])
    return reply if isinstance(reply, str) else type(reply).__name__
