"""The scripts on a real server compared with the model, step by step, with time moved by hand.

Owns: the kinds of step; after each the same reply or refusal, the same events, the same content of
every key.
Never does: decide what is right: tests/model/session.py and its neighbours do.
Read next: test_model.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import msgspec
from hypothesis import event as count
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from eventsched.errors import Refused
from eventsched.schema import codec
from eventsched.schema.events import Event, Text
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.operator_commands import Act
from eventsched.store.session_commands import Chunk, Finalize, SessionGrant
from projections.group import Groups
from tests.model import attempts, cell, nodes, operators, session, stored, timers
from tests.model.wire import Wire, run
from tests.model.world import Broken, DispatchEntry, Entry, World

START_MS = 1_000_000
SETTINGS = Settings(
    audio_ms_max=2_000,
    audio_bytes_max=3_000,
    idle_ms=20_000,
    close_wait_ms=10_000,
    playback_ms=8_000,
    delivery_gap_timeout_ms=6_000,
    queue_timeout_ms=9_000,
    node_lost_ms=15_000,
    node_retention_ms=30_000,
    suspend_ms=12_000,
    retry_backoff_ms=300,
    retry_avoid_ms=3_000,
    fast_failure_ms=2_000,
    failing_suspend_ms=6_000,
    failing_suspend_ms_max=15_000,
    session_retention_ms=40_000,
    outbox_retention_ms=7_000,
    lease_base_ms=14_000,
    tenant_queue_max=12,
)
WHOLE = msgspec.to_builtins(SETTINGS)
OTHER: dict[str, int] = {
    "pause_ms": 1_500,
    "audio_ms_max": 1_200,
    "audio_bytes_max": 2_000,
    "idle_ms": 12_000,
    "close_wait_ms": 4_000,
    "playback_ms": 5_000,
    "delivery_gap_timeout_ms": 2_500,
    "queue_timeout_ms": 5_000,
    "heartbeat_ms": 4_000,
    "node_lost_ms": 11_000,
    "node_retention_ms": 2_000,
    "suspend_ms": 7_000,
    "retry_backoff_ms": 0,
    "retry_avoid_ms": 0,
    "failing_suspend_ms": 3_000,
    "session_retention_ms": 25_000,
    "outbox_retention_ms": 30_000,
    "lease_base_ms": 20_000,
    "lease_factor_thousandths": 900,
    "tenant_queue_max": 8,
    "tenant_sessions_max": 3,
    "of_a_newer_version": 10**14 - 1,
}
"""What a cell may be changed to and back: all within reach of the ticks below."""
BAD_SETTINGS: tuple[dict[str, Any], ...] = (
    {"pause_ms": 1.5},
    {"pause_ms": "1"},
    {"pause_ms": None},
    {"pause_ms": True},
    {"pause_ms": 10**14},
    {"delivery_gap_timeout_ms": 7, "pause_ms": [1]},
    {"delivery_gap_timeout_ms": 7, "": 1},
    {"delivery_gap_timeout_ms": 7, "a b": 1},
    {"delivery_gap_timeout_ms": 7, "a" * 65: 1},
)
DECIDE: tuple[ModuleType, ...] = (cell, session, nodes, attempts, timers, operators)
PROSE = {"limit", "remedy"}
"""Fields of a refusal that are for people."""
RETRY_IN_MS = st.sampled_from([None, None, 0, 1, 700, 10_000])
TENANTS = ("acme", "tiny")
ROOM = "r1"
LANGUAGES = ("es", "fr", "de")
_TEXT = codec.encode_text(Text(source_text="ok", text="x"))
CIPHERTEXTS = [
    codec.encode_text(Text(encrypted=b"x" * size, characters=1)) for size in (1, 516, 517)
]
"""Some sessions have a key, and the last text is longer than one character can be."""
KINDS: tuple[dict[str, Any], ...] = (
    {"sources": ["en"], "targets": ["es"], "features": []},
    {"sources": ["en"], "targets": ["es", "fr", "de"], "features": ["tts"]},
    {"sources": ["auto", "en"], "targets": ["es", "fr"], "features": ["tts", "vad"]},
)
FEATURES: tuple[tuple[list[str], str], ...] = (
    ([], "none"),
    (["tts"], "0123456789abcdef"),
    (["vad", "tts"], "fedcba9876543210"),
)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KEY = "0123456789abcdef"
BAD_OPENINGS: tuple[dict[str, Any], ...] = (
    {"name": "a b"},
    {"token": ""},
    {"secret_sha1": "0123"},
    {"tenant": "a:b"},
    {"source": "english"},
    {"targets": ["auto"]},
    {"targets": [f"a{letter}" for letter in "abcdefghi"]},
    {"features": ["a|b"]},
    {"features_hash": "0123"},
    {"encoding": "mp3"},
    {"sample_rate": 7_999},
    {"sample_rate": 48_001},
    {"priority": 3},
    {"room": "elsewhere.acme/r1"},
    {"room": "r1"},
    {"listen_language": "auto"},
    {"key": "0123"},
)
BAD_REGISTRATIONS: tuple[dict[str, Any], ...] = (
    {"token": ""},
    {"slots": 0},
    {"slots": 257},
    {"sources": []},
    {"sources": ["enx12"]},
    {"targets": ["auto"]},
    {"targets": [f"a{x}{y}" for x in "abcdefgh" for y in "abcdefghi"]},
    {"sources": [f"a{x}{y}" for x in "abcd" for y in "abcdefghi"],
     "targets": [f"a{x}{y}" for x in "abcd" for y in "abcdefghi"]},
    {"features": ["a b"]},
    {"features": [f"s{no}" for no in range(17)]},
)  # fmt: skip
MALFORMED = (
    *(("configure_cell", wrong) for wrong in BAD_SETTINGS),
    *(("open_session", wrong) for wrong in BAD_OPENINGS),
    *(("register_node", wrong) for wrong in BAD_REGISTRATIONS),
)
CHUNKS_MAX = 32
"""As many chunks as a call may have."""
SECRET = "5ec4e7" + "0" * 26
small = st.integers(0, 7)
"""Which of those that are there: of few, each is met often."""


class Machine(RuleBasedStateMachine):
    """One cell. `wire` is set by the test that runs it."""

    wire: Wire

    def __init__(self) -> None:
        super().__init__()
        self.at_ms = START_MS
        name = f"m{secrets.token_hex(7)}"
        self.store = Store(self.wire, name, now_ms=lambda: self.at_ms)
        self.world = World(name)
        self.actual = stored.Actual(self.store.keys)
        self.sessions: list[SessionGrant] = []
        self.registered: list[NodeGrant] = []
        self.tokens = 0

    @initialize(
        at_first=st.sampled_from([{}, {"delivery_gap_timeout_ms": 5_000}, WHOLE]),
        kind=st.sampled_from([None, *KINDS]),
        into=st.sampled_from([["es"], ["es"], ["fr", "es"]]),
        cache_live_state=st.sampled_from([1, 1, 0]),
        eager_dispatch=st.sampled_from([1, 1, 0]),
    )
    def cell_is_there(
        self,
        at_first: dict[str, int],
        kind: dict[str, Any] | None,
        into: list[str],
        cache_live_state: int,
        eager_dispatch: int = 1,
    ) -> None:
        """A newer version adds the settings that the cell lacks; then a session speaks and is
        mostly served.
        """
        at_first = at_first | {
            "cache_live_state": cache_live_state,
            "eager_dispatch": eager_dispatch,
        }
        self.both("configure_cell", at_first, overwrite=False, manual_clock=True)
        self.both("configure_cell", WHOLE, overwrite=False, manual_clock=True)
        self.open("acme", "en", into, FEATURES[0], 1, None, True, False, "")
        if kind is not None:
            self.register("n1", kind, 2)
        self.speak_and_be_served(0, True, ["ok"])

    def teardown(self) -> None:
        names = self.wire.client.keys(f"{self.store.keys.prefix}*")
        if names:
            self.wire.call("DEL", *names)

    # --- both sides -------------------------------------------------------------------------

    def both(self, method: str, *args: Any, **overrides: Any) -> Any:
        """The reply or the refusal, the same from the script and from the model."""
        after = self.world.log_id
        decide = next(getattr(part, method) for part in DECIDE if hasattr(part, method))
        self.world.begin(self.at_ms)
        expected = _plain(_outcome_of(lambda: decide(self.world, *args, **overrides)))
        actual = _outcome_of(lambda: run(getattr(self.store, method)(*args, **overrides)))
        assert _plain(actual) == expected, (
            f"{method}: the script says {actual}, the model {expected}"
        )
        self.compare(after)
        for item in actual if isinstance(actual, list) else [actual]:
            count(f"{method}: {item.code if isinstance(item, Refused) else 'done'}")
        return actual

    def compare(self, after: str) -> None:
        """The same events since an id, and the same content of every key."""
        dump = self.wire.dump(self.store.keys, after)
        _, raw = dump.get(self.store.keys.log, ("stream", []))
        events = [codec.decode(entry_id.decode(), fields) for entry_id, fields in raw]
        for appended, expected in zip(events, self.world.events, strict=False):
            assert appended == expected, f"appended\n  {appended}\nthe model says\n  {expected}"
        assert _types(events) == _types(self.world.events)
        for kind in set(_types(events)):
            count(f"event {kind}")
            self.wire.event_types.add(kind)
        on_server = self.actual.content(dump)
        in_model = stored.expected(self.world)
        if on_server == in_model:
            return
        for key in sorted(on_server.keys() | in_model.keys()):
            assert on_server.get(key) == in_model.get(key), (
                f"{key}\n  on the server {on_server.get(key)}\n  in the model  {in_model.get(key)}"
            )

    def token(self) -> str:
        self.tokens += 1
        return f"t{self.tokens}"

    # --- the cell ---------------------------------------------------------------------------

    @rule(
        names=st.lists(st.sampled_from(sorted(OTHER)), max_size=3),
        is_back=st.booleans(),
        overwrite=st.sampled_from([True, True, False]),
        manual_clock=st.booleans(),
    )
    def configure(
        self, names: list[str], is_back: bool, overwrite: bool, manual_clock: bool
    ) -> None:
        """A running cell uses the new settings from here on; its clock stays."""
        values = {name: (WHOLE if is_back and name in WHOLE else OTHER)[name] for name in names}
        self.both("configure_cell", values, overwrite=overwrite, manual_clock=manual_clock)

    @rule(wrong_call=st.sampled_from(MALFORMED))
    def call_beyond_a_limit(self, wrong_call: tuple[str, dict[str, Any]]) -> None:
        script, wrong = wrong_call
        if script == "configure_cell":
            reply = self.both(script, wrong, overwrite=True)
        elif script == "open_session":
            reply = self.both(script, **self.opening(**wrong))
        else:
            reply = self.both(script, **self.registration(node="n9", **wrong))
        assert isinstance(reply, Refused)

    # --- sessions ---------------------------------------------------------------------------

    def opening(self, **overrides: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "name": f"s{len(self.sessions) + 1}",
            "token": self.token(),
            "secret_sha1": session.sha1(SECRET),
            "tenant": "acme",
            "source": "en",
            "targets": ["es"],
            "features": [],
            "features_hash": "none",
            "encoding": "pcm16",
            "sample_rate": 16_000,
            "priority": 1,
            "room": "",
            "listen_language": "",
            "traceparent": "",
        }
        return defaults | overrides

    @rule(
        tenant=st.sampled_from(TENANTS),
        source=st.sampled_from(["en", "en", "auto"]),
        into=st.sampled_from([["es"], ["es"], ["fr", "es"], []]),
        features=st.sampled_from([*FEATURES, FEATURES[0]]),
        priority=st.sampled_from([0, 1, 1, 2]),
        listen_language=st.sampled_from([None, None, "", "es", "fr", "es"]),
        is_own_room=st.sampled_from([True, True, True, False]),
        is_traced=st.booleans(),
        key=st.sampled_from(["", KEY]),
    )
    def open(
        self,
        tenant: str,
        source: str,
        into: list[str],
        features: tuple[list[str], str],
        priority: int,
        listen_language: str | None,
        is_own_room: bool,
        is_traced: bool,
        key: str,
    ) -> None:
        owner = tenant if is_own_room else "other"
        fields = self.opening(
            tenant=tenant,
            source=source,
            targets=into,
            features=features[0],
            features_hash=features[1],
            priority=priority,
            room="" if listen_language is None else self.store.keys.full(f"{owner}/{ROOM}"),
            listen_language=listen_language or "",
            traceparent=PARENT if is_traced else "",
            key=key,
        )
        grant = self.both("open_session", **fields)
        if isinstance(grant, SessionGrant):
            self.sessions.append(grant)

    @precondition(lambda self: self.sessions)
    @rule(which=small, is_same=st.booleans())
    def open_again(self, which: int, is_same: bool) -> None:
        name = self.session(which).session.partition(".")[2]
        state = self.world.session_states.get(name)
        if state is not None:  # a session that is gone could be opened anew, under its old name
            token = state.tokens[0][0] if is_same else "other"
            self.both("open_session", **self.opening(name=name, token=token))

    def session(self, which: int) -> SessionGrant:
        """A session; the newest first, because those are mostly open."""
        return self.sessions[-1 - which % len(self.sessions)]

    @precondition(lambda self: self.sessions)
    @rule(
        which=small,
        how=st.sampled_from(["new", "again", "new", "bad", "unknown", "stranger", "odd"]),
    )
    def resume(self, which: int, how: str) -> None:
        grant = self.session(which)
        state = self.world.session_states.get(grant.session.partition(".")[2])
        token = {"new": self.token(), "bad": "a b"}.get(how, state.tokens[-1][0] if state else "t")
        name = grant.session if how != "unknown" else self.store.keys.full("nobody")
        secret = {"stranger": "0" * 32, "odd": "secret"}.get(how, SECRET)
        reply = self.both("resume_session", name, secret, token)
        if isinstance(reply, SessionGrant):
            self.sessions[self.sessions.index(grant)] = reply

    # --- audio ------------------------------------------------------------------------------

    def chunk(self, grant: SessionGrant, **overrides: Any) -> Chunk:
        state = self.world.session_states.get(grant.session.partition(".")[2])
        defaults: dict[str, Any] = {
            "session": grant.session,
            "epoch": grant.epoch,
            "seq": state.next_seq if state else 0,
            "ms": 100,
            "payload": b"ab",
        }
        return Chunk(**defaults | overrides)

    @precondition(lambda self: self.sessions)
    @rule(
        which=small,
        ms=st.sampled_from([20, 100, 500, 1_000]),
        size=st.sampled_from([2, 2, 1_500, 2_999]),
        end_of_utterance=st.booleans(),
        is_traced=st.booleans(),
    )
    def append(
        self, which: int, ms: int, size: int, end_of_utterance: bool, is_traced: bool = False
    ) -> None:
        chunk = self.chunk(
            self.session(which),
            ms=ms,
            payload=b"x" * size,
            end_of_utterance=end_of_utterance,
            traceparent=OTHER_PARENT if is_traced and end_of_utterance else "",
        )
        self.both("append_audio", [chunk])

    @precondition(lambda self: self.sessions)
    @rule(which=small, ms=st.sampled_from([0, 5, 100]))
    def append_empty_final(self, which: int, ms: int) -> None:
        self.both(
            "append_audio",
            [self.chunk(self.session(which), ms=ms, payload=b"", end_of_utterance=True)],
        )

    @precondition(lambda self: self.sessions)
    @rule(which=small, by=st.sampled_from([1, 2, -1, -1, -2]))
    def append_gap_or_duplicate(self, which: int, by: int) -> None:
        chunk = self.chunk(self.session(which))
        self.both("append_audio", [msgspec.structs.replace(chunk, seq=max(0, chunk.seq + by))])

    @precondition(lambda self: self.sessions)
    @rule(
        which=small,
        wrong=st.sampled_from(
            [
                {"ms": 19},
                {"ms": 1_001},
                {"payload": b""},
                {"payload": b"x" * 65_537},
                {"epoch": 0},
                {"epoch": 99},
                {"confirmed": "x"},
                {"session": "nobody"},
            ]
        ),
    )
    def append_beyond_a_limit(self, which: int, wrong: dict[str, Any]) -> None:
        if "session" in wrong:
            wrong = {"session": self.store.keys.full(wrong["session"])}
        self.both("append_audio", [self.chunk(self.session(which), **wrong)])

    @precondition(lambda self: self.sessions)
    @rule(which=small, other=small, finals=st.lists(st.booleans(), min_size=2, max_size=8))
    def append_batch(self, which: int, other: int, finals: list[bool]) -> None:
        """Chunks of two sessions in turn; a chunk with a repeated number is a duplicate."""
        ahead: dict[str, int] = {}
        chunks = []
        for at, end_of_utterance in enumerate(finals):
            first = self.chunk(self.session(which if at % 2 else other))
            seq = first.seq + ahead.setdefault(first.session, 0)
            ahead[first.session] += 1
            chunks.append(
                msgspec.structs.replace(first, seq=seq, end_of_utterance=end_of_utterance)
            )
        self.both("append_audio", [*chunks, chunks[-1]])

    @precondition(lambda self: self.sessions)
    @rule(which=small, times=st.sampled_from([6, 10, 24, 36]))
    def speak_much(self, which: int, times: int) -> None:
        """Many short utterances: more than one step may dispatch or deliver."""
        first = self.chunk(self.session(which), end_of_utterance=True)
        chunks = [msgspec.structs.replace(first, seq=first.seq + no) for no in range(times)]
        for at in range(0, times, CHUNKS_MAX):
            self.both("append_audio", chunks[at : at + CHUNKS_MAX])

    @precondition(lambda self: self.sessions)
    @rule(
        which=small,
        by=st.sampled_from([0, 0, 0, 1, -1]),
        times=st.sampled_from([1, 1, 2]),
        traceparent=st.sampled_from(["", OTHER_PARENT]),
    )
    def finalize(self, which: int, by: int, times: int, traceparent: str) -> None:
        grant = self.session(which)
        view = self.world.sessions.get(grant.session.partition(".")[2])
        number = max(0, view.utterance + by) if view else 0
        finalizes = [
            Finalize(
                session=grant.session,
                epoch=grant.epoch,
                utterance=number + more,
                traceparent=traceparent,
            )
            for more in range(times)
        ]
        self.both("finalize_utterances", finalizes)

    @precondition(lambda self: self.sessions)
    @rule(which=small, confirms=st.sampled_from(["", "some", "some", "x"]))
    def keep_alive(self, which: int, confirms: str) -> None:
        items = [(grant.session, grant.epoch, "") for grant in self.sessions[-3:]]
        grant = self.session(which)
        out = self.world.streams.get(self.store.keys.outbox(grant.session.partition(".")[2]), [])
        confirmed = out[len(out) // 2].id if confirms == "some" and out else ""
        items.append((grant.session, grant.epoch, "x" if confirms == "x" else confirmed))
        self.both("keep_alive", items)

    # --- playback, closing ------------------------------------------------------------------

    @precondition(lambda self: self.sessions)
    @rule(
        which=small,
        origin=small,
        language=st.sampled_from(["es", "es", "fr", "auto"]),
        utterance=st.integers(0, 1),
        started=st.sampled_from([True, True, False]),
    )
    def mark(self, which: int, origin: int, language: str, utterance: int, started: bool) -> None:
        grant = self.session(which)
        origin_id = self.session(origin).session
        self.both(
            "mark_playback",
            grant.session,
            grant.epoch,
            origin=origin_id,
            target=language,
            utterance=utterance,
            started=started,
        )

    @precondition(lambda self: self.sessions)
    @rule(which=small, started=st.booleans())
    def mark_open_playback(self, which: int, started: bool) -> None:
        grant = self.session(which)
        view = self.world.sessions.get(grant.session.partition(".")[2])
        for mark in list(view.playbacks)[:1] if view else ():
            origin, target, number = mark.split("/")
            self.both(
                "mark_playback",
                grant.session,
                grant.epoch,
                origin=origin,
                target=target,
                utterance=int(number),
                started=started,
            )

    @precondition(lambda self: self.sessions)
    @rule(which=small)
    def close(self, which: int) -> None:
        grant = self.session(which)
        self.both("close_session", grant.session, grant.epoch)

    @precondition(lambda self: self.sessions)
    @rule(which=small, key=st.sampled_from([KEY, KEY, KEY[::-1], "0123"]))
    def erase(self, which: int, key: str) -> None:
        """An open session is refused; a closed or retired session is erased, once."""
        self.both("erase_session", self.session(which).session, key)

    # --- nodes ------------------------------------------------------------------------------

    def registration(self, **overrides: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {"node": "n1", "token": self.token(), "slots": 2, "version": "1"}
        defaults |= KINDS[0] | overrides
        return defaults | {"node": self.store.keys.full(defaults["node"])}

    @rule(
        name=st.sampled_from(["n1", "n2", "n3"]),
        kind=st.sampled_from(KINDS),
        slots=st.sampled_from([1, 2, 3, 24]),
    )
    def register(self, name: str, kind: dict[str, Any], slots: int) -> None:
        """A registration under an id that is alive ends the older registration."""
        grant = self.both("register_node", **self.registration(node=name, slots=slots, **kind))
        if isinstance(grant, NodeGrant):
            self.registered.append(grant)

    @precondition(lambda self: self.registered)
    @rule(which=small)
    def register_again(self, which: int) -> None:
        name = self.node(which).node.partition(".")[2]
        process = self.world.processes.get(name)
        token = process.token if process else self.token()
        self.both("register_node", **self.registration(node=name, token=token))

    def node(self, which: int) -> NodeGrant:
        return self.registered[-1 - which % len(self.registered)]

    @precondition(lambda self: self.registered)
    @rule()
    def all_beat(self) -> None:
        for grant in self.registered[-3:]:
            held = [(key, job.attempt) for key, job in list(self.world.jobs.items())[-3:]]
            self.both("heartbeat_node", grant.node, grant.epoch, load=3, attempts=held)

    @precondition(lambda self: self.registered)
    @rule(which=small, load=st.sampled_from([0, 1_000_001]), by=st.sampled_from([-1, 0, 1]))
    def beat(self, which: int, load: int, by: int) -> None:
        grant = self.node(which)
        self.both("heartbeat_node", grant.node, max(0, grant.epoch + by), load=load, attempts=[])

    @precondition(lambda self: self.registered)
    @rule(
        which=small,
        within_ms=st.sampled_from([0, 5_000, 60_000, 300_001]),
        by_operator=st.booleans(),
    )
    def drain(self, which: int, within_ms: int, by_operator: bool) -> None:
        grant = self.node(which)
        if by_operator:
            self.both("request_drain", grant.node, self.act(which), within_ms=within_ms)
        else:
            self.both("drain_node", grant.node, grant.epoch, within_ms=within_ms)

    # --- reports of nodes ---------------------------------------------------------------------

    @precondition(lambda self: self.sessions)
    @rule(
        which=small,
        is_long=st.booleans(),
        statuses=st.lists(st.sampled_from(["ok", "ok", "no_speech", "failed"]), max_size=3),
    )
    def speak_and_be_served(self, which: int, is_long: bool, statuses: list[str]) -> None:
        """A session speaks and its job is served without interruption; a job without a status stays
        running.
        """
        self.append(which, 100, 2, True)
        self.dispatch()
        if is_long:
            self.partial(-1, True, 0, 3)
            self.extend(-1, True, 30_000)
        for status in statuses:
            self.say(-1, status=status)

    def attempt(self, which: int, *, is_live: bool) -> tuple[str, str, int, int] | None:
        """(job, node, epoch, attempt) of a running attempt, or of any attempt."""
        attempts = [
            (key, attempt.node, attempt.epoch, attempt.attempt)
            for key, job in self.world.jobs.items()
            for attempt in job.attempts
            if not is_live or (job.status == "running" and not attempt.ended_ms)
        ]
        return attempts[which % len(attempts)] if attempts else None

    @precondition(lambda self: self.attempt(0, is_live=True))
    @rule(
        which=st.integers(0, 40),
        status=st.sampled_from(["ok", "ok", "no_speech", "no_speech", "failed"]),
        audio=st.sampled_from([b"", b"", b"sound"]),
        text=st.sampled_from(["hola", None]),
    )
    def result(self, which: int, status: str, audio: bytes, text: str | None) -> None:
        self.say(which, status=status, audio=audio if status == "ok" else b"", text=text)

    def say(
        self,
        which: int,
        *,
        status: str = "ok",
        audio: bytes = b"",
        text: str | None = "hola",
        code: str = "BROKEN",
        retryable: bool = False,
        feature: str = "",
        is_live: bool = True,
    ) -> None:
        target_attempt = self.attempt(which, is_live=is_live)
        if target_attempt is None:
            return
        key, node, epoch, attempt = target_attempt
        body = codec.encode_text(Text(source_text="hi", text=text))
        result = NodeResult(
            job=key,
            attempt=attempt,
            status=status,  # type: ignore[arg-type]
            code=code if status == "failed" else "",
            retryable=retryable,
            feature=feature,
            body=body if status == "ok" else b"",
            audio=audio,
            audio_sha256="ab" * 32 if audio else "",
        )
        self.both("record_results", node, epoch, [result])

    @precondition(lambda self: self.attempt(0, is_live=True))
    @rule(which=st.integers(0, 40), code=st.sampled_from(["BROKEN", "TOO_HOT"]))
    def fail_and_let_others_try(self, which: int, code: str) -> None:
        self.say(which, status="failed", code=code, retryable=True)

    @precondition(lambda self: self.attempt(0, is_live=True))
    @rule(which=st.integers(0, 40), is_known=st.sampled_from([True, True, False]))
    def report_a_missing_model(self, which: int, is_known: bool) -> None:
        attempt = self.attempt(which, is_live=True)
        features = self.world.cores[attempt[0]].features if attempt and is_known else []
        choices = [*features, "", "nothing"]
        feature = choices[which % len(choices)]
        self.say(which, status="failed", code="MODEL_NOT_AVAILABLE", feature=feature)

    @precondition(lambda self: self.attempt(0, is_live=True))
    @rule(
        which=st.integers(0, 40),
        count=st.integers(1, 4),
        body=st.sampled_from([b"plain", b"\x81\xc1\xc1", b"\x81\xa4text", *CIPHERTEXTS]),
    )
    def report_text_that_cannot_be_read(self, which: int, count: int, body: bytes) -> None:
        """One node, several times: the third suspends it, unless it is the last able one."""
        target_attempt = self.attempt(which, is_live=True)
        assert target_attempt is not None
        node = target_attempt[1]
        for _ in range(count):
            live = self.world.nodes[node.partition(".")[2]].live
            for key, held in sorted(live.items())[:1]:
                result = NodeResult(job=key, attempt=held.attempt, status="ok", body=body)
                self.both("record_results", node, held.epoch, [result])

    @precondition(lambda self: self.attempt(0, is_live=False))
    @rule(
        which=st.integers(0, 80),
        status=st.sampled_from(["ok", "no_speech", "failed"]),
        by=st.sampled_from([0, 0, 0, 1]),
    )
    def result_of_any_attempt(self, which: int, status: str, by: int) -> None:
        """Mostly of a stale attempt; a held empty result is replaced by a complete one."""
        target_attempt = self.attempt(which, is_live=False)
        assert target_attempt is not None
        key, node, epoch, attempt = target_attempt
        result = NodeResult(
            job=key,
            attempt=attempt + by,
            status=status,  # type: ignore[arg-type]
            code="BROKEN" if status == "failed" else "",
            body=codec.encode_text(Text(source_text="late")),
        )
        self.both("record_results", node, epoch, [result])

    @precondition(lambda self: self.attempt(0, is_live=True))
    @rule(which=st.integers(0, 40), count=st.integers(1, 6), retry_in_ms=RETRY_IN_MS)
    def fail_again_and_again(self, which: int, count: int, retry_in_ms: int | None) -> None:
        """One node: the fifth failure may suspend it; timers fire in between."""
        target_attempt = self.attempt(which, is_live=True)
        assert target_attempt is not None
        node = target_attempt[1]
        for _ in range(count):
            live = self.world.nodes[node.partition(".")[2]].live
            for key, held in sorted(live.items())[:1]:
                result = NodeResult(
                    job=key, attempt=held.attempt, status="failed", code="BROKEN",
                    retryable=True, retry_in_ms=retry_in_ms,
                )  # fmt: skip
                self.both("record_results", node, held.epoch, [result])
            self.both("fire_timers")

    @precondition(lambda self: self.held_empty())
    @rule(is_complete=st.booleans())
    def replace_a_held_result(self, is_complete: bool) -> None:
        key = self.held_empty()[0]
        held = self.world.jobs[key].attempts[-1]
        body = codec.encode_text(Text(source_text="so", text="pues"))
        status: Any = "ok" if is_complete else "no_speech"
        result = NodeResult(job=key, attempt=held.attempt, status=status, body=body)
        self.both("record_results", held.node, held.epoch, [result])

    def held_empty(self) -> list[str]:
        """Jobs whose empty result is held because of a gap."""
        return [
            ending.job
            for waiting in self.world.held.values()
            for ending in waiting.values()
            if ending.kind == "no_speech"
        ]

    @precondition(lambda self: self.sessions)
    @rule(
        which=small,
        first=st.sampled_from(["ok", "no_speech", "failed"]),
        statuses=st.lists(
            st.sampled_from(["ok", "ok", "no_speech", "failed"]), min_size=8, max_size=8
        ),
        replaced=st.integers(0, 2),
    )
    def results_before_the_first(
        self, which: int, first: str, statuses: list[str], replaced: int
    ) -> None:
        """Eight results are held because of a gap; the result of the first utterance ends it."""
        full = self.session(which).session
        self.register("n4", KINDS[2], 24)
        chunk = self.chunk(self.session(which), end_of_utterance=True)
        for at in (0, 1):  # a call finalizes at most eight utterances
            more = range(1) if at == 0 else range(1, 9)
            chunks = [msgspec.structs.replace(chunk, seq=chunk.seq + no) for no in more]
            self.both("append_audio", chunks)
        self.dispatch()
        self.dispatch()
        running = [key for key, job in self.world.jobs.items() if job.status == "running"]
        cores = {key: self.world.cores[key] for key in running}
        target = min((core.target for core in cores.values() if core.session == full), default="")
        of_target = [
            (core.delivery_no, key)
            for key, core in cores.items()
            if (core.session, core.target) == (full, target)
        ]
        in_order = [key for _, key in sorted(of_target)]
        held = in_order[1:9]
        for key, status in zip(reversed(held), statuses, strict=False):
            self.say_of(key, status)
        for _ in range(replaced):
            if self.held_empty():
                self.replace_a_held_result(True)
        for key in in_order[:1]:
            self.say_of(key, first)
        drained = sum(event.type == "ResultDelivered" for event in self.world.events)
        self.wire.drained_max = max(self.wire.drained_max, drained)

    def say_of(self, key: str, status: str) -> None:
        """The node reports a result for the running attempt of the job."""
        attempt = self.world.jobs[key].attempts[-1]
        result = NodeResult(
            job=key,
            attempt=attempt.attempt,
            status=status,  # type: ignore[arg-type]
            code="BROKEN" if status == "failed" else "",
            body=_TEXT if status == "ok" else b"",
        )
        self.both("record_results", attempt.node, attempt.epoch, [result])

    @precondition(lambda self: self.registered)
    @rule(
        which=small, statuses=st.lists(st.sampled_from(["ok", "no_speech", "failed"]), max_size=20)
    )
    def results_of_one_node(self, which: int, statuses: list[str]) -> None:
        """Results for all attempts of a node, the newest first, in one call."""
        grant = self.node(which)
        node = self.world.nodes.get(grant.node.partition(".")[2])
        held = sorted(node.live.items(), reverse=True) if node else []
        results = [
            NodeResult(
                job=key,
                attempt=attempt.attempt,
                status=status,  # type: ignore[arg-type]
                code="BROKEN" if status == "failed" else "",
                retryable=True,
                error_type="ValueError" if status == "failed" else "",
                error_message="out of memory" if status == "failed" else "",
                error_place="workers.py:12" if status == "failed" else "",
                body=_TEXT if status == "ok" else b"",
            )
            for (key, attempt), status in zip(held, statuses, strict=False)
        ]
        self.both("record_results", grant.node, grant.epoch, results)

    @precondition(lambda self: self.attempt(0, is_live=False))
    @rule(
        which=small,
        wrong=st.sampled_from(
            [
                {"attempt": 0},
                {"status": "failed"},
                {"audio": b"x" * 512_001, "audio_sha256": "ab" * 32},
                {"audio": b"x"},
                {"audio_sha256": "ab" * 32},
                {"status": "no_speech", "audio": b"x", "audio_sha256": "ab" * 32},
                {"job": "none"},
            ]
        ),
    )
    def result_that_breaks_a_limit(self, which: int, wrong: dict[str, Any]) -> None:
        target_attempt = self.attempt(which, is_live=False)
        assert target_attempt is not None
        key, node, epoch, attempt = target_attempt
        defaults: dict[str, Any] = {"job": key, "attempt": attempt, "status": "ok"}
        self.both("record_results", node, epoch, [NodeResult(**defaults | wrong)])

    @precondition(lambda self: self.attempt(0, is_live=False))
    @rule(
        which=st.integers(0, 80),
        is_live=st.sampled_from([True, True, False]),
        by=st.sampled_from([0, 0, 0, 1, -9]),
        size=st.sampled_from([3, 3, 65_537]),
    )
    def partial(self, which: int, is_live: bool, by: int, size: int) -> None:
        target_attempt = self.attempt(which, is_live=is_live)
        if target_attempt is not None:
            key, node, epoch, attempt = target_attempt
            item = (key, max(0, attempt + by), b"p" * size)
            self.both("send_partials", node, epoch, [item, ("none", 1, b"")])

    @precondition(lambda self: self.attempt(0, is_live=False))
    @rule(
        which=st.integers(0, 80),
        is_live=st.sampled_from([True, True, False]),
        more_ms=st.sampled_from([1, 30_000, 300_000, 300_001]),
    )
    def extend(self, which: int, is_live: bool, more_ms: int) -> None:
        target_attempt = self.attempt(which, is_live=is_live)
        if target_attempt is not None:
            key, node, epoch, attempt = target_attempt
            self.both("extend_lease", node, epoch, job=key, attempt=attempt, more_ms=more_ms)

    # --- roles ------------------------------------------------------------------------------

    @rule(lease_ms=st.sampled_from([0, 2_000, 60_000]))
    def dispatch(self, lease_ms: int = 0) -> None:
        self.both("dispatch_jobs", lease_ms)

    @rule(ms=st.sampled_from([1, 50, 999, 2_000, 3_000, 5_000]), times=st.integers(1, 2))
    def tick(self, ms: int, times: int) -> None:
        self.at_ms += ms
        for _ in range(times):
            self.both("fire_timers")

    @rule(ms=st.sampled_from([9_000, 15_000, 30_000, 60_000]), times=st.sampled_from([1, 6]))
    def long_tick(self, ms: int, times: int) -> None:
        self.at_ms += ms
        for _ in range(times):
            self.both("fire_timers")

    @rule(by=st.sampled_from([-1, 0, 0]))
    def tick_to_the_next_timer(self, by: int) -> None:
        """The timer fires exactly when it is due, and not one millisecond earlier."""
        now = self.world.now
        due = [ms for ms in self.world.timers.values() if ms > now]
        if due:
            self.at_ms += max(0, min(due) - now + by)
            self.both("fire_timers")

    @rule(ms=st.sampled_from([1, 3_000, 40_000]))
    def clock_goes_back(self, ms: int) -> None:
        self.both("dispatch_jobs")
        self.at_ms -= ms
        self.both("dispatch_jobs")

    @rule(
        reason=st.sampled_from(["memory", "group"]), is_active=st.sampled_from([True, False, False])
    )
    def backpressure(self, reason: str, is_active: bool) -> None:
        self.both("set_backpressure", reason, is_active=is_active, seen=90, limit=80)

    @rule()
    def projector_catches_up(self) -> None:
        """Dispatch copies the context of a group from its view, as far as the view is folded (rule
        29).
        """
        keys = self.store.keys
        self.wire.call("SET", keys.active_revision("group"), "1.1")
        before = self.wire.call("HGET", keys.clock, "record").decode().rpartition("|")[0]
        # A generation that no call has stored, as if another program had called.
        self.wire.call("HSET", keys.clock, "record", f"{before}|0.1")
        for name, view in self.world.groups.items():
            fields = Groups().encode(view, None)
            flat = [part for pair in fields.items() for part in pair]
            key = keys.view("group", "1.1", name)
            self.wire.call("HSET", key, "at", self.world.log_id, *flat)
            self.world.contexts[name] = (self.world.log_id, dict(fields))

    # --- entries that cannot be processed ---------------------------------------------------

    def utterance_entries(self) -> list[Entry]:
        entries = self.world.streams.get(self.store.keys.dispatch, [])
        return [entry for entry in entries if isinstance(entry.fields["d"], DispatchEntry)]

    @precondition(lambda self: self.utterance_entries())
    @rule(which=small, how=st.sampled_from(["twice", "broken", "parked"]))
    def entry_comes_again(self, which: int, how: str) -> None:
        """An entry is in the queue again: unchanged, unreadable for every script, or back from the
        dead letters after the cause of its failure has ended.
        """
        queued = self.utterance_entries()[which % len(self.utterance_entries())]
        key = self.store.keys.dispatch
        ((_, stored_fields),) = self.wire.call("XRANGE", key, queued.id, queued.id)
        d, line = queued.fields["d"], stored_fields[b"d"].decode()
        if how == "broken":
            d, line = Broken(d), line[:-1]
        self.world.begin(self.at_ms)
        fields = {"k": "utterance", "d": d}
        if how == "parked":
            key = self.store.keys.dead_letters
            fields |= {"from": "dispatch", "id": queued.id, "partial": "0"}
        entry = self.world.append(key, **fields)
        arguments = [part for pair in (fields | {"d": line}).items() for part in pair]
        self.wire.call("XADD", key, entry, *arguments)
        self.compare(self.world.log_id)

    @rule()
    def timer_of_no_kind(self) -> None:
        self.wire.call("ZADD", self.store.keys.timers, self.at_ms, "bogus|x")
        self.world.set_timer(self.at_ms, "bogus", "x")
        self.both("fire_timers")

    # --- operators ------------------------------------------------------------------------------

    def act(self, which: int) -> Act:
        """Few requests, so that some are repeated."""
        return Act(by="ann@host", why=f"reason {which}", request=f"r{which}-{self.at_ms % 3}")

    def dead_ids(self, which: int, count: int) -> list[str]:
        """Of dead letters, some more than once; of none that exists."""
        dead = self.world.streams.get(self.store.keys.dead_letters, [])
        return [dead[(which + at) % len(dead)].id if dead else "1-0" for at in range(count)]

    @rule(which=small, count=st.integers(1, 3), discards=st.booleans())
    def settle_dead_letters(self, which: int, count: int, discards: bool) -> None:
        ids, call = self.dead_ids(which, count), "discard" if discards else "retry"
        chosen_by = "match x" * (count - 1)
        self.both(f"{call}_dead_letters", ids, self.act(which), chosen_by=chosen_by)


def _outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Refused as refused:
        return refused


def _plain(reply: Any) -> Any:
    """A refusal as its code and those of its fields that programs read."""
    if isinstance(reply, list):
        return [_plain(item) for item in reply]
    if isinstance(reply, Refused):
        fields = {name: value for name, value in reply.fields.items() if name not in PROSE}
        return reply.code, fields
    return reply


def _types(events: Sequence[Event]) -> list[str]:
    return [event.type for event in events]
