"""The participants of a simulated cluster: producers, nodes, roles, and a hostile caller.

Owns: small actors that follow the protocol of the client and node libraries over a Store; the roles
are the real ones. Each actor acts at random, from the seed of the world.
Never does: judge. `Observations` holds the replies to producers; check.py compares them with the
log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import redis

from eventsched.archive.archiver import Archiver
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.signing import SigningKey
from eventsched.errors import (
    Backpressure,
    JobUnknown,
    LeaseLost,
    NodeSuperseded,
    NodeUnknown,
    Refused,
    SeqGap,
    ServerUnavailable,
    SessionClosedError,
    SessionSuperseded,
    SessionUnknown,
)
from eventsched.projection.installed import load_core
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.roles.dispatcher import Dispatcher
from eventsched.roles.projector import BLOCK_MS, Projector, StepResult
from eventsched.roles.timer import Timer
from eventsched.roles.trimmer import Trimmer
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.operator_commands import Act
from eventsched.store.replies import fields_of
from eventsched.store.session_commands import (
    Chunk,
    Finalize,
    Postponed,
    SessionGrant,
    hash_secret,
)
from eventsched.store.transport import Arg
from tests.simulation.world import World

CELL = "sim"
KEY = "0123456789abcdef"
SECRET = "5ec4e7" + "0" * 26
"""Id of the key of sessions that are encrypted."""
SPEECH_MS = (100, 300, 1_000)


@cache
def core_set() -> ProjectionSet:
    """The core set; searching the installed packages for it takes 10 ms."""
    return load_core()


@dataclass
class Observations:
    """What the outside world has seen: acknowledged chunks, and the entries that listeners read."""

    acked: dict[str, dict[int, int]] = field(default_factory=dict)
    """session -> seq -> bytes, as acknowledged."""
    entries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)


class Cluster:
    """All actors of one seed."""

    def __init__(self, world: World, observations: Observations) -> None:
        self.world, self.observations, self.rng = world, observations, world.rng
        self.store = Store(world.transport, CELL, now_ms=world.clock)
        self.views = ProjectionStore(world.transport, CELL, now_ms=world.clock)
        self.is_calm = False
        self._count = 0

    def token(self) -> str:
        self._count += 1
        return f"token-{self._count}"

    async def sleep(self, low_ms: int, high_ms: int) -> None:
        await self.world.transport.sleep(self.rng.randint(low_ms, high_ms) / 1000)

    async def patiently(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The reply, after any number of outages and requests to wait."""
        while True:
            try:
                return await call()
            except (ServerUnavailable, Backpressure):
                await self.sleep(50, 400)

    # --- roles ----------------------------------------------------------------------------------

    def start_role(self, name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A process that is started again whenever it dies."""
        group = self.process(name)
        self.world.on_crash[group] = lambda: self.start_role(name, make)
        self.world.start(group, group, make())

    def stop_role(self, name: str) -> None:
        """End its processes, also frozen ones, and start no other."""
        for group in sorted({actor.group for actor in self.world.actors}):
            if group.partition("#")[0] == name:
                self.world.on_crash.pop(group, None)
                self.world.crash(group)

    def process(self, name: str) -> str:
        """A new name: a process that was replaced while frozen wakes up beside its successor."""
        self._count += 1
        return f"{name}#{self._count}"

    def start_roles(self, each: int) -> None:
        for number in range(each):
            self.start_role(f"dispatcher-{number}", lambda: Dispatcher(self.store).run())
            self.start_role(f"timer-{number}", lambda: Timer(self.store).run())
            self.start_role(f"projector-{number}", self._project)

    def start_trimming(self) -> None:
        """The log is trimmed, up to the entries that are still needed."""
        self.start_role("trimming", lambda: Trimmer(self.views).run())

    def start_archivers(self, path: Path, each: int) -> None:
        """They seal the log into this folder, so that it can be trimmed behind them."""
        _, key = ArchiveFolder.open_or_create(path, None)
        for number in range(each):
            self.start_role(f"archiver-{number}", lambda: self._archive(path, key))

    async def _archive(self, path: Path, key: SigningKey) -> None:
        """The real archiver, step by step; its lock on the folder ends with its process."""
        folder = ArchiveFolder.open(path).cell(CELL)
        archiver = Archiver(self.views, folder, key, core_set(), owner=self.token())
        try:
            await self._keep_on(archiver.step, ("buffered", "sealed"), idle_ms=(100, 800))
        finally:
            archiver.discard()

    async def _project(self) -> None:
        """The real projector, step by step: its `run` needs an event loop to be cancelled in."""
        projector = Projector(self.views, core_set(), owner=self.token())

        async def step() -> StepResult:
            return await projector.step(self.rng.choice((0, BLOCK_MS)))

        await self._keep_on(step, ("folded", "moved"), idle_ms=(30, 250))

    async def _keep_on(
        self, step: Callable[[], Awaitable[Any]], busy: Sequence[str], idle_ms: tuple[int, int]
    ) -> None:
        """Step after step, with a pause if the server is away or there is nothing to do."""
        while True:
            try:
                stepped = await step()
            except ServerUnavailable:
                await self.sleep(50, 400)
                continue
            if stepped.state not in busy:
                await self.sleep(*idle_ms)

    # --- producers ------------------------------------------------------------------------------

    def start_producer(self, name: str, chunks: int, **settings: Any) -> None:
        Producer(self, name, chunks, settings).start(resume=False)

    def start_node(self, name: str, **settings: Any) -> None:
        SimNode(self, name, settings).start()


class Producer:
    """One session: speaks, listens, is killed and resumed, closes at the end."""

    def __init__(self, cluster: Cluster, name: str, chunks: int, settings: dict[str, Any]) -> None:
        self.cluster, self.world, self.rng = cluster, cluster.world, cluster.rng
        self.name, self.session = name, f"{CELL}.{name}"
        self.left, self.settings = chunks, settings
        self.acked = cluster.observations.acked.setdefault(self.session, {})
        self.entries = cluster.observations.entries.setdefault(self.session, [])
        self.position = "0-0"

    def start(self, *, resume: bool) -> None:
        group = self.cluster.process(f"producer-{self.name}")
        self.world.on_crash[group] = lambda: self.start(resume=True)
        self.world.start(f"{group} speaks", group, self._speak(self.cluster.token(), resume))
        if not resume:
            self.start_listener()

    def start_listener(self) -> None:
        group = self.cluster.process(f"listener-{self.name}")
        self.world.on_crash[group] = self.start_listener
        self.world.start(group, group, self._listen())

    async def _grant(self, token: str, resume: bool) -> SessionGrant | None:
        store = self.cluster.store
        if resume and self.session in self.cluster.observations.opened:
            resumed = self.cluster.patiently(
                lambda: store.resume_session(self.session, SECRET, token)
            )
            try:
                granted: SessionGrant = await resumed
            except (SessionUnknown, SessionClosedError):
                return None
            return granted
        opened: dict[str, Any] = {
            "name": self.name,
            "token": f"open-{self.name}",
            "secret_sha1": hash_secret(SECRET),
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
        try:
            granted = await self.cluster.patiently(
                lambda: store.open_session(**opened | self.settings)
            )
        except SessionClosedError:
            return None
        self.cluster.observations.opened.add(self.session)
        return granted

    async def _speak(self, token: str, resume: bool) -> None:
        grant = await self._grant(token, resume)
        try:
            while grant is not None and self.left > 0 and not self.cluster.is_calm:
                await self._act(grant)
                await self.cluster.sleep(20, 400)
                if self.rng.random() < 0.08:
                    await self.cluster.sleep(2_000, 5_000)
            if grant is not None:
                await self.cluster.patiently(
                    lambda: self.cluster.store.close_session(self.session, grant.epoch)
                )
        except (SessionSuperseded, SessionUnknown, SessionClosedError):
            return

    async def _act(self, grant: SessionGrant) -> None:
        store, dice = self.cluster.store, self.rng.random()
        if dice < 0.8:
            await self._append(grant)
        elif dice < 0.86:
            finalize = Finalize(
                session=self.session, epoch=grant.epoch, utterance=self.rng.randint(0, 5)
            )
            (reply,) = await self.cluster.patiently(lambda: store.finalize_utterances([finalize]))
            if isinstance(reply, Refused):
                raise reply
        elif dice < 0.9:
            await self.cluster.patiently(
                lambda: store.keep_alive([(self.session, grant.epoch, self.position)])
            )
        elif self.entries:
            result = self.rng.choice(self.entries[-4:])
            started = self.rng.random() < 0.6
            await self.cluster.patiently(
                lambda: store.mark_playback(
                    self.session,
                    grant.epoch,
                    origin=result["session"],
                    target=result["target"],
                    utterance=result["utterance"],
                    started=started,
                )
            )

    async def _append(self, grant: SessionGrant) -> None:
        """A batch of chunks from the next one on; refused chunks are sent again later."""
        seq = len(self.acked)
        upto = seq + self.rng.choice((1, 1, 1, 2, 4))
        chunks = [self._chunk(grant, at) for at in range(seq, upto)]
        if self.rng.random() < 0.03:
            chunks[0] = self._chunk(grant, seq + 1)
        replies = await self.cluster.patiently(lambda: self.cluster.store.append_audio(chunks))
        for chunk, reply in zip(chunks, replies, strict=True):
            if isinstance(reply, Postponed):
                continue
            if not isinstance(reply, Refused):
                self._acknowledged(chunk)
                continue
            self.world.refusals[reply.code] += 1
            if isinstance(reply, SeqGap):
                self._learn(reply.expected)
            elif not isinstance(reply, Backpressure):
                raise reply

    def _chunk(self, grant: SessionGrant, seq: int) -> Chunk:
        """The chunk depends on its number alone, so a repeated chunk is the same."""
        words = Random(f"{self.world.seed} {self.name} {seq}")
        ms, end_of_utterance = words.choice(SPEECH_MS), words.random() < 0.3
        size = 0 if end_of_utterance and words.random() < 0.2 else ms
        return Chunk(
            session=self.session,
            epoch=grant.epoch,
            seq=seq,
            ms=ms if size else 0,
            payload=b"x" * size,
            end_of_utterance=end_of_utterance,
            confirmed=self.position,
        )

    def _acknowledged(self, chunk: Chunk) -> None:
        if chunk.seq == len(self.acked):
            self.acked[chunk.seq] = len(chunk.payload)
            self.left -= 1

    def _learn(self, expected: int) -> None:
        """The server has chunks whose acknowledgement was lost: their sizes are unknown."""
        for seq in range(len(self.acked), expected):
            self.acked[seq] = -1

    async def _listen(self) -> None:
        """One reader, beginning at the position of the last one."""
        key, store = self.cluster.store.keys.outbox(self.name), self.cluster.store
        while self.session not in self.cluster.observations.done:
            try:
                streams = await store.transport.read_blocking({key: self.position}, 1_000, 50)
            except ServerUnavailable:
                await self.cluster.sleep(50, 400)
                continue
            for entry_id, fields in streams.get(key, ()):
                self.position = entry_id
                self._hear(fields_of(fields))

    def _hear(self, entry: dict[bytes, bytes]) -> None:
        data = msgspec.json.decode(entry[b"d"])
        if entry[b"t"] == b"result":
            self.entries.append(data)
        elif entry[b"t"] == b"state" and data["state"] == "closed":
            self.cluster.observations.done.add(self.session)


class SimNode:
    """One worker process after another under the same id."""

    def __init__(self, cluster: Cluster, name: str, settings: dict[str, Any]) -> None:
        self.cluster, self.world, self.rng = cluster, cluster.world, cluster.rng
        self.store, self.name, self.settings = cluster.store, name, settings
        self.is_broken = False
        """Each attempt fails at once, until the process is replaced."""

    def start(self) -> None:
        """An older process of this id that is frozen is superseded."""
        self.is_broken = self.rng.random() < 0.15
        group = self.cluster.process(f"node-{self.name}")
        self.world.on_crash[group] = self.start
        self.world.start(f"{group} main", group, self._main(group))

    async def _main(self, group: str) -> None:
        while True:
            grant: NodeGrant = await self.cluster.patiently(self._register(self.cluster.token()))
            held: dict[str, int] = {}
            alive = [True]
            self.world.start(f"{group} heart", group, self._beat(grant, held, alive))
            try:
                await self._serve(group, grant, held, alive)
            except NodeSuperseded:
                self.world.on_crash.pop(group, None)
                return
            finally:
                alive[0] = False

    def _register(self, token: str) -> Callable[[], Coroutine[Any, Any, NodeGrant]]:
        defaults: dict[str, Any] = {
            "sources": ["en"],
            "targets": ["es"],
            "features": [],
            "slots": 2,
            "version": "1",
        }
        return lambda: self.store.register_node(
            node=f"{CELL}.{self.name}", token=token, **defaults | self.settings
        )

    async def _serve(
        self, group: str, grant: NodeGrant, held: dict[str, int], alive: list[bool]
    ) -> None:
        key, position = self.store.keys.inbox(self.name), grant.inbox_from
        while alive[0]:
            try:
                streams = await self.store.transport.read_blocking({key: position}, 500, 16)
            except ServerUnavailable:
                await self.cluster.sleep(50, 300)
                continue
            for entry_id, fields in streams.get(key, ()):
                position = entry_id
                self._take(group, grant, held, fields_of(fields))
            if self.rng.random() < 0.004 and not self.cluster.is_calm:
                await self._drain(grant)
                return

    async def _drain(self, grant: NodeGrant) -> None:
        within = self.rng.choice((0, 2_000))
        try:
            await self.cluster.patiently(
                lambda: self.store.drain_node(grant.node, grant.epoch, within_ms=within)
            )
        except NodeUnknown:
            return
        await self.cluster.sleep(100, 3_000)

    async def _beat(self, grant: NodeGrant, held: dict[str, int], alive: list[bool]) -> None:
        while alive[0]:
            try:
                lost = await self.store.heartbeat_node(
                    grant.node, grant.epoch, load=len(held), attempts=list(held.items())
                )
                for job in lost:
                    held.pop(job, None)
            except ServerUnavailable:
                pass
            except (NodeUnknown, NodeSuperseded):
                alive[0] = False
            await self.cluster.sleep(700, 1_000)

    def _take(
        self, group: str, grant: NodeGrant, held: dict[str, int], entry: dict[bytes, bytes]
    ) -> None:
        job, data = entry[b"j"].decode(), msgspec.json.decode(entry[b"d"])
        if entry[b"t"] == b"cancel":
            if held.get(job) == data["attempt"] and data["epoch"] == grant.epoch:
                del held[job]
        elif data["epoch"] == grant.epoch:
            held[job] = data["attempt"]
            self.world.start(f"{group} job", group, self._work(grant, held, job, data))

    async def _work(
        self, grant: NodeGrant, held: dict[str, int], job: str, data: dict[str, Any]
    ) -> None:
        attempt = data["attempt"]
        is_whole: bool = await self.cluster.patiently(lambda: self._has_audio(data))
        try:
            if not self.is_broken:
                await self._linger(grant, job, attempt)
        except (LeaseLost, JobUnknown):
            held.pop(job, None)
            return
        if held.get(job) != attempt and self.rng.random() < 0.7:
            return
        result = self._result(job, data, is_whole)
        if result is None:
            return
        (reply,) = await self.cluster.patiently(
            lambda: self.store.record_results(grant.node, grant.epoch, [result])
        )
        held.pop(job, None)
        self._judge(reply, is_whole, job)
        if result.status == "no_speech" and self.rng.random() < 0.5:
            complete = msgspec.structs.replace(result, status="ok", code="", body=_text("again"))
            (reply,) = await self.cluster.patiently(
                lambda: self.store.record_results(grant.node, grant.epoch, [complete])
            )
            self._judge(reply, True, job)

    def _judge(self, reply: Refused | None, is_whole: bool, job: str) -> None:
        if reply is not None:
            self.world.refusals[reply.code] += 1
        elif not is_whole:
            self.cluster.observations.broken.append(
                f"{job}: a current attempt found its audio trimmed"
            )

    async def _has_audio(self, data: dict[str, Any]) -> bool:
        key = self.store.keys.audio(data["session"].partition(".")[2])
        entries = await self.store.read_range(key, data["first"], data["last"], 1_000)
        sizes = [len(fields[-1]) for _, fields in entries]
        return [len(sizes), sum(sizes)] == [data["count"], data["bytes"]]

    async def _linger(self, grant: NodeGrant, job: str, attempt: int) -> None:
        await self.cluster.sleep(10, 800)
        if self.rng.random() < 0.15:
            (reply,) = await self.cluster.patiently(
                lambda: self.store.send_partials(grant.node, grant.epoch, [(job, attempt, b"")])
            )
            if reply is not None:
                self.world.refusals[reply.code] += 1
        if self.rng.random() < 0.08:
            await self.cluster.patiently(
                lambda: self.store.extend_lease(
                    grant.node, grant.epoch, job=job, attempt=attempt, more_ms=20_000
                )
            )
            await self.cluster.sleep(100, 16_000)

    def _result(self, job: str, data: dict[str, Any], is_whole: bool) -> NodeResult | None:
        attempt, dice = data["attempt"], self.rng.random()
        if self.is_broken and not self.cluster.is_calm:
            return NodeResult(
                job=job, attempt=attempt, status="failed", code="GPU_LOST", retryable=True
            )
        if not is_whole:
            return NodeResult(job=job, attempt=attempt, status="failed", code="AUDIO_GONE")
        if dice < 0.04 and not self.cluster.is_calm:
            return None
        if dice < 0.12:
            return NodeResult(job=job, attempt=attempt, status="no_speech", code="ASR_EMPTY")
        if dice < 0.2:
            return NodeResult(
                job=job, attempt=attempt, status="failed", code="GPU_FELL_OVER", retryable=True,
                retry_in_ms=self.rng.choice((None, None, 0, 40, 2_000)),
            )  # fmt: skip
        if dice < 0.24:
            return NodeResult(job=job, attempt=attempt, status="failed", code="BAD_AUDIO")
        features: Sequence[str] = data.get("features", ())
        if features and dice < 0.34:
            return NodeResult(
                job=job,
                attempt=attempt,
                status="failed",
                code="MODEL_NOT_AVAILABLE",
                feature=features[0],
            )
        body = _encrypted("hola") if "key" in data else _text("hola")
        return NodeResult(job=job, attempt=attempt, status="ok", body=body)


def _text(words: str) -> bytes:
    return codec.encode_text(Text(source_text="hello", text=words))


def _encrypted(words: str) -> bytes:
    """A text that only the holder of the key can read; in the simulation there is none."""
    return codec.encode_text(Text(encrypted=words.encode(), characters=len(words)))


class GroupReader:
    """Another program that reads from the groups of the system and moves them by hand.

    Sometimes it reads in a loop for a while, which no reader of the system may depend on to end.
    """

    NAME = "group reader"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.rng = cluster, cluster.rng
        keys = cluster.store.keys
        self._streams = {"core": keys.log, "archive": keys.log, "dispatch": keys.dispatch}

    def start(self) -> None:
        self.cluster.start_role(self.NAME, self._run)

    async def _run(self) -> None:
        while not self.cluster.is_calm:
            await self.cluster.sleep(200, 3_000)
            for _ in range(self.rng.choice((1, 1, 1, 40))):
                if self.cluster.is_calm:
                    break
                try:
                    await self._interfere()
                except ServerUnavailable:
                    continue
                except redis.ResponseError:
                    break  # the group is not there
                await self.cluster.sleep(5, 60)

    async def _interfere(self) -> None:
        group = self.rng.choice(("core", "core", "archive", "dispatch"))
        stream = self._streams[group]
        match self.rng.randrange(8):
            case 0 | 1 | 2:
                await self._command("read", *self._read(group, stream, "NOACK"))
            case 3 | 4:
                await self._command("read with acknowledgement", *self._read(group, stream))
            case 5:
                entry = await self._entry(stream)
                await self._command("acknowledged", "XACK", stream, group, entry)
            case 6:
                entry = await self._entry(stream)
                await self._command("group moved", "XGROUP", "SETID", stream, group, entry)
            case 7:
                number = ("ENTRIESREAD", str(self.rng.randint(0, 50)))
                entry = await self._entry(stream)
                await self._command("group moved", "XGROUP", "SETID", stream, group, entry, *number)

    def _read(self, group: str, stream: str, *options: str) -> tuple[Arg, ...]:
        consumer, count = self.rng.choice(("other", "zombie")), self.rng.choice((1, 3, 200))
        start = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count)
        return (*start, *options, "STREAMS", stream, ">")

    async def _entry(self, stream: str) -> str:
        """The id of an entry, or a place at the beginning or the end."""
        entries = await self.cluster.store.read_range(stream, "-", "+", 100)
        return self.rng.choice(["0-0", "$", *[entry_id for entry_id, _ in entries]])

    async def _command(self, name: str, *parts: Arg) -> None:
        self.cluster.world.foreign[name] += 1
        await self.cluster.store.transport.command(*parts, key=self.cluster.store.keys.log)


class Service:
    """Another program that reads the log as a consumer group of its own.

    It acknowledges some entries, and an operator drops its group at times, and at the end.
    """

    GROUP = "billing"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.rng = cluster, cluster.rng
        self._log = cluster.store.keys.log

    def start(self) -> None:
        self.cluster.start_role("service", self._run)

    async def _run(self) -> None:
        is_over = False
        while not is_over:
            await self.cluster.sleep(300, 2_000)
            try:
                is_over = await self._step()
            except (ServerUnavailable, redis.ResponseError):
                continue

    async def _step(self) -> bool:
        """Read and acknowledge, or drop the group; return whether it was the last step."""
        store, is_over = self.cluster.store, self.cluster.is_calm
        if is_over or not self.rng.randrange(8):
            await store.drop_consumer_group(
                self.GROUP, Act.of("sim@host", "not needed", self.cluster.token())
            )
            return is_over
        await store.create_group(self.GROUP, self.rng.choice(("0-0", "$")))
        entries = await store.read_unacknowledged(self.GROUP, "s1", 50)
        read = ("XREADGROUP", "GROUP", self.GROUP, "s1", "COUNT", self.rng.choice((1, 50, 500)))
        await store.transport.command(*read, "STREAMS", self._log, ">", key=self._log)
        for entry_id, _ in entries[: self.rng.choice((0, 5, 50))]:
            await store.acknowledge(self.GROUP, entry_id)
        return False


class Mischief:
    """Stale, malformed and foreign calls: each must be refused and change nothing."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.store = cluster, cluster.store

    def start(self) -> None:
        self.cluster.start_role("mischief", self._run)

    async def _run(self) -> None:
        while not self.cluster.is_calm:
            await self.cluster.sleep(300, 1_500)
            try:
                await self._harm()
            except (Refused, ServerUnavailable):
                continue

    async def _harm(self) -> None:
        store, rng = self.store, self.cluster.rng
        session = rng.choice([*sorted(self.cluster.observations.opened), f"{CELL}.nobody"])
        big = Chunk(
            session=session,
            epoch=1,
            seq=len(self.cluster.observations.acked.get(session, ())),
            ms=100,
            payload=b"x" * 65_537,
        )
        match rng.randrange(8):
            case 0:
                self._count(await store.append_audio([big]))
            case 1:
                await store.resume_session(session, "0" * 32, "stranger")
                raise AssertionError(f"{session} was resumed with a wrong secret")
            case 2:
                stray = NodeResult(
                    job="acme:sim.nobody:0:translation:es:none", attempt=1, status="ok"
                )
                self._count(await store.record_results(f"{CELL}.n0", 1, [stray]))
            case 3:
                await store.heartbeat_node(f"{CELL}.nobody", 1, load=0, attempts=[])
            case 4:
                await store.mark_playback(
                    session, 1, origin="other.cell", target="es", utterance=0, started=True
                )
            case 5:
                self._count(await store.keep_alive([(session, 0, "")]))
            case 6:
                await store.set_backpressure("memory", is_active=True, seen=2, limit=1)
            case 7:
                await self._stale_attempt()

    async def _stale_attempt(self) -> None:
        """A result in the name of an earlier attempt of some job in the log."""
        events = await self.store.read_range(self.store.keys.log, "-", "+", 200, newest_first=True)
        for _, fields in events:
            if fields[1] == b"JobDispatched":
                data = msgspec.json.decode(fields[15])
                stale = NodeResult(job=fields[7].decode(), attempt=data["attempt"] + 1, status="ok")
                node = fields[9].decode()
                self._count(await self.store.record_results(node, data["epoch"], [stale]))
                return

    def _count(self, replies: Sequence[object]) -> None:
        for reply in replies:
            if isinstance(reply, Refused):
                self.cluster.world.refusals[reply.code] += 1


async def erase(cluster: Cluster, name: str) -> None:
    """The owner of the key of a closed session records its destruction, and again if unsure."""
    session = f"{CELL}.{name}"
    while True:
        await cluster.sleep(100, 2_000)
        if session in cluster.observations.done:
            await cluster.patiently(lambda: cluster.store.erase_session(session, KEY))


async def lift_pressure(cluster: Cluster) -> None:
    """A new measurement ends every backpressure."""
    while True:
        await cluster.sleep(500, 2_000)
        try:
            await cluster.store.set_backpressure("memory", is_active=False, seen=0, limit=1)
        except ServerUnavailable:
            continue
