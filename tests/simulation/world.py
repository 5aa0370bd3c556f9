"""Virtual time and faults: one call at a time on a real server, in an order drawn from a seed.

Owns: the scheduler of coroutines, the transport through which they reach Redis, the faults.
Never does: anything of the product: roles are the real ones, scripts run on a real server.
Read next: actors.py (the participants), run.py (a seed from start to verdict).

An actor is a coroutine that awaits only its transport. Each await reaches the world as a request;
the world picks the actor that continues, its virtual time, and the fault.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis

from eventsched.errors import ServerUnavailable, from_reply
from eventsched.store import library as lua_library
from eventsched.store.transport import Arg, Entry, entries_of

T = TypeVar("T")
START_MS = 1_700_000_000_000
CALL_MS_MAX = 3
POLL_MS = (20, 150)
FAULTS = {
    "lost",
    "cut",
    "doubled",
    "delayed",
    "crashed before",
    "crashed after",
    "frozen",
    "replaced while frozen",
    "clock back",
    "clock ahead",
}
FOREIGN = {"read", "read with acknowledgement", "acknowledged", "group moved"}
"""What another program does with the consumer groups of the system."""


class Crashed(BaseException):
    """Thrown into an actor that is killed: no handler of Exception catches it."""


@dataclass(slots=True)
class Request:
    """The request of an actor: a call on the server, or a time to wait for."""

    call: Callable[[], Any] | None = None
    until_ms: int = 0
    is_blocking: bool = False
    is_local: bool = False
    """A wait reaches no server: it may be late, or the process may die during it."""

    def __await__(self) -> Generator[Request, Any, Any]:
        return (yield self)


@dataclass(slots=True)
class Actor:
    """One coroutine; the coroutines of one process share `group`, and die and freeze together."""

    name: str
    group: str
    coroutine: Coroutine[Any, Any, None]
    ready_ms: int
    request: Request | None = None
    answer: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Odds:
    """The probability of each fault of a call, in thousandths."""

    lost: int = 8
    cut: int = 8
    doubled: int = 8
    delayed: int = 20
    crashed: int = 3
    frozen: int = 3
    clock: int = 2


REMOTE = frozenset({"lost", "cut", "doubled"})
"""What happens on the way to a server only."""
QUIET = Odds(0, 0, 0, 0, 0, 0, 0)


class SimTransport:
    """The transport that turns every call into a request to the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        # the time of a call is the time at which it runs, not the time of the request
        return await Request(lambda: self._world.evaluate(script, keys, args))

    async def command(self, *parts: Arg, key: str) -> Any:
        return await Request(lambda: self._world.server.execute_command(*parts))

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        return [await self.command(*call, key=str(call[1])) for call in calls]

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        until_ms = self._world.now_ms + block_ms
        entries: dict[str, list[Entry]] = await Request(
            lambda: self._world.read(streams, count), until_ms, is_blocking=True
        )
        return entries

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        assert noack, "no role acknowledges"
        until_ms = self._world.now_ms + block_ms
        entries: list[Entry] = await Request(
            lambda: self._world.read_group(key, group, consumer, count), until_ms, is_blocking=True
        )
        return entries

    async def sleep(self, seconds: float) -> None:
        await Request(until_ms=self._world.now_ms + max(1, round(seconds * 1000)))


async def on_disk(work: Callable[[], T]) -> T:
    """Instead of `disk.in_thread`: a process may die before or after a write to files."""
    done: T = await Request(work, is_local=True)
    return done


@dataclass
class World:
    """All actors of one seed."""

    server: Any
    """A synchronous redis client."""
    seed: int
    now_ms: int = START_MS
    skew_ms: int = 0
    odds: Odds = field(default_factory=Odds)
    calls: int = 0
    actors: list[Actor] = field(default_factory=list)
    thawed_ms: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    foreign: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    on_crash: dict[str, Callable[[], None]] = field(default_factory=dict)
    index: list[str] = field(default_factory=list)
    logged: list[tuple[bytes, dict[bytes, bytes]]] = field(default_factory=list)
    """The entries of the log before each trim."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.transport = SimTransport(self)

    # --- actors ---------------------------------------------------------------------------------

    def start(self, name: str, group: str, coroutine: Coroutine[Any, Any, None]) -> None:
        self.actors.append(Actor(name, group, coroutine, self.now_ms))

    def crash(self, group: str) -> None:
        """The process dies; `on_crash` says how it is restarted."""
        for actor in [actor for actor in self.actors if actor.group == group]:
            self.actors.remove(actor)
            if inspect.getcoroutinestate(actor.coroutine) == inspect.CORO_CREATED:
                actor.coroutine.close()  # it had not begun, so nothing can be thrown into it
                continue
            try:
                actor.coroutine.throw(Crashed())
            except (Crashed, StopIteration):
                continue
            raise AssertionError(f"{actor.name} survived its crash")
        self._replace(group)

    def _replace(self, group: str) -> None:
        restart = self.on_crash.pop(group, None)
        if restart is not None:
            restart()

    def clock(self) -> int:
        """The clock of the server: virtual time and its steps."""
        return self.now_ms + self.skew_ms

    # --- the effect of a call -----------------------------------------------------------------

    def evaluate(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        function = lua_library.library().function(script)
        args_with_clock = [str(self.clock()), *args[1:]]
        if script == "trim_log":
            self.keep(keys[0])
        try:
            return self.server.fcall(function, len(keys), *keys, *args_with_clock)
        except redis.ResponseError as error:
            refused = from_reply(str(error))
            if refused is None:
                raise
            self.refusals[refused.code] += 1
            raise refused from None

    def keep(self, log: str) -> None:
        """Remember the entries of the log, because some may be trimmed."""
        after = "(" + self.logged[-1][0].decode() if self.logged else "-"
        self.logged += self.server.xrange(log, after)

    def untrim(self, log: str) -> bool:
        """Restore the trimmed entries of the log. Returns whether there were any."""
        self.keep(log)
        if self.server.xlen(log) == len(self.logged):
            return False
        self.server.delete(log)
        for entry_id, fields in self.logged:
            self.server.xadd(log, fields, id=entry_id)
        return True

    def close(self) -> None:
        """Every actor ends here."""
        for actor in self.actors:
            actor.coroutine.close()
        self.actors.clear()

    def read(self, streams: Mapping[str, str], count: int) -> dict[str, list[Entry]]:
        return self._entries("XREAD", "COUNT", count, "STREAMS", *streams, *streams.values())

    def read_group(self, key: str, group: str, consumer: str, count: int) -> list[Entry]:
        call = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, "NOACK", "STREAMS")
        try:
            return self._entries(*call, key, ">").get(key, [])
        except redis.ResponseError as error:  # as the real transport says it
            raise ServerUnavailable(str(error)) from None

    def _entries(self, *call: Arg) -> dict[str, list[Entry]]:
        reply: Any = self.server.execute_command(*call)
        pairs = reply.items() if isinstance(reply, dict) else reply or []
        return {
            key.decode() if isinstance(key, bytes) else key: entries_of(entries)
            for key, entries in pairs
        }

    # --- the loop -------------------------------------------------------------------------------

    def run_until(self, done: Callable[[], bool], *, calls_max: int, ms_max: int) -> bool:
        """Run until `done`, or until this many calls or this much virtual time: then false."""
        ends_calls, ends_ms = self.calls + calls_max, self.now_ms + ms_max
        while not done():
            if self.calls >= ends_calls or self.now_ms >= ends_ms or not self.actors:
                return done()
            self._step()
        return True

    def _ready_at(self, actor: Actor) -> int:
        return max(actor.ready_ms, self.thawed_ms.get(actor.group, 0))

    def _step(self) -> None:
        ready = [actor for actor in self.actors if self._ready_at(actor) <= self.now_ms]
        if not ready:
            self.now_ms = min(self._ready_at(actor) for actor in self.actors)
            ready = [actor for actor in self.actors if self._ready_at(actor) <= self.now_ms]
        actor = self.rng.choice(ready)
        if actor.request is None or not self._serve(actor, actor.request):
            self._resume(actor)

    def _serve(self, actor: Actor, request: Request) -> bool:
        """Serve the request of the actor. True if it has to wait longer, or has ended."""
        if request.call is None:
            return False
        self.calls += 1
        self.now_ms += self.rng.randint(0, CALL_MS_MAX)
        fault = self._draw()
        if request.is_local and fault in REMOTE:
            fault = ""
        if fault:
            self.faults[fault] += 1
            self.index.append(f"{self.calls} {self.now_ms - START_MS} {actor.name} {fault}")
        if fault == "delayed":
            actor.ready_ms = self.now_ms + self.rng.randint(1, 2_000)
            return True
        if fault in ("lost", "crashed before"):
            return self._fail(actor, fault)
        self._execute(actor, request)
        if fault == "doubled":
            self._execute(actor, request)
        if fault in ("cut", "crashed after"):
            return self._fail(actor, fault)
        is_empty = request.is_blocking and not actor.answer and actor.error is None
        if is_empty and self.now_ms < request.until_ms:
            actor.ready_ms = self.now_ms + self.rng.randint(*POLL_MS)
            return True
        return False

    def _draw(self) -> str:
        """The fault of this call, if any; faults of machines and clocks are separate."""
        odds, at = self.odds, self.rng.randrange(1000)
        for name, weight in (
            ("lost", odds.lost),
            ("cut", odds.cut),
            ("doubled", odds.doubled),
            ("delayed", odds.delayed),
            ("crashed before", odds.crashed),
            ("crashed after", odds.crashed),
        ):
            if at < weight:
                return name
            at -= weight
        if at < odds.frozen:
            self._freeze()
        elif at < odds.frozen + odds.clock:
            self._step_clock()
        return ""

    def _freeze(self) -> None:
        group = self.rng.choice(sorted({actor.group for actor in self.actors}))
        self.thawed_ms[group] = self.now_ms + self.rng.choice((300, 2_000, 20_000, 45_000))
        self.faults["frozen"] += 1
        # a listener stores its own position: two would read every entry twice
        if self.rng.random() < 0.5 and not group.startswith("listener"):
            self._replace(group)
            self.faults["replaced while frozen"] += 1
        self.index.append(f"{self.calls} {self.now_ms - START_MS} {group} frozen")

    def _step_clock(self) -> None:
        step = self.rng.choice((-20_000, -300, 250, 4_000))
        self.skew_ms += step
        self.faults["clock back" if step < 0 else "clock ahead"] += 1
        self.index.append(f"{self.calls} {self.now_ms - START_MS} clock {step}")

    def _fail(self, actor: Actor, fault: str) -> bool:
        if fault.startswith("crashed"):
            self.crash(actor.group)
            return True
        actor.answer, actor.error = None, ServerUnavailable(f"simulated: {fault}")
        return False

    def _execute(self, actor: Actor, request: Request) -> None:
        assert request.call is not None
        actor.answer, actor.error = None, None
        try:
            actor.answer = request.call()
        except Exception as error:  # noqa: BLE001 - whatever the call raises is the actor's to meet
            actor.error = error

    def _resume(self, actor: Actor) -> None:
        answer, error = actor.answer, actor.error
        actor.request, actor.answer, actor.error = None, None, None
        try:
            request = actor.coroutine.throw(error) if error else actor.coroutine.send(answer)
        except StopIteration:
            self.actors.remove(actor)
            return
        actor.request = request
        actor.ready_ms = request.until_ms if request.call is None else self.now_ms

    def complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run one coroutine to its end without faults and without other actors."""
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                request = coroutine.throw(error) if error else coroutine.send(answer)
            except StopIteration as end:
                return end.value
            answer, error = None, None
            try:
                answer = request.call() if request.call else None
            except Exception as raised:  # noqa: BLE001 - as in _execute
                error = raised
