"""Rows of the benchmark `growth` about read models: retirement, rebuild, a record that grows.

Owns: a log of events of jobs that no call has made, folded by a projector or a rebuild.
Never does: compare sizes (growth.py). Read next: roles/projector.py, projection/fold.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Costs, Row, calls_of, net_in_bytes
from benchmarks.micro.stage import Stage
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.roles.rebuild import Rebuild
from eventsched.schema.codec import encode
from eventsched.schema.events import AnyData, Event, JobQueued, SessionRetired
from eventsched.schema.keys import job_key
from eventsched.store.cell import Store
from eventsched.store.transport import Arg, Transport
from projections.job import Jobs

TARGETS = ("de", "es", "fr", "it", "nl", "pl", "pt", "sv")
ROUNDS = 4
BATCH = 1_000
TEXT_BYTES = 2_048


class Latest:
    """A read model with the priority of each job."""

    name, version, view, handles = "latest", 1, int, frozenset({"JobQueued"})

    def initial(self) -> int:
        return 0

    def route(self, event: Event) -> tuple[str, ...]:
        return (event.job,)

    def apply(self, view: int, _: Event) -> int:
        return view + 1


class Texts:
    """A read model that keeps the texts of all jobs in one record."""

    name, version, view, handles = "texts", 1, bytes, frozenset({"JobQueued"})

    def initial(self) -> bytes:
        return b""

    def route(self, _: Event) -> tuple[str, ...]:
        return ("all",)

    def apply(self, view: bytes, event: Event) -> bytes:
        return view + event.body


async def saves_of_a_retirement(stage: Stage, jobs: int) -> list[float]:
    """Microseconds of each save while a projector drops so many job records."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        await _append(stage, store, _jobs(store, jobs))
        views = ProjectionStore(store.transport, store.cell)
        projector = Projector(views, ProjectionSet("jobs", (Jobs(),)), batch_max=BATCH)
        await _fold(projector)
        retired = SessionRetired(
            tenant="bench", utterances=jobs // len(TARGETS), targets=list(TARGETS)
        )
        await _append(stage, store, [_event(store.keys.full("long"), "", retired)])
        costs = Costs(stage.redis)
        views.transport = cast("Transport", _MeteredSaves(store.transport, costs))
        await _fold(projector)
        return costs.of_calls


class _MeteredSaves:
    """A transport that measures each save of views."""

    def __init__(self, transport: Transport, costs: Costs) -> None:
        self._transport, self._costs = transport, costs

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        call = self._transport.run(script, keys, args)
        return await (self._costs.measure(call) if script == "save_views" else call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def writes_of_a_record(stage: Stage, records: int) -> float:
    """How often a rebuild writes each of so many records that change four times, in turns."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        events = list(_jobs(store, records))
        await _append(stage, store, [event for _ in range(ROUNDS) for event in events])
        views = ProjectionStore(store.transport, store.cell)
        of = ProjectionSet("latest", (Latest(),))
        await _fold(Projector(views, of, batch_max=BATCH))
        before = await calls_of(stage.redis, "hset")
        if await Rebuild(views, of, ["latest"]).run() is None:
            raise BenchFailed("the view was not rebuilt")
        return (await calls_of(stage.redis, "hset") - before) / records


async def bytes_of_a_growing_record(stage: Stage, events: int) -> float:
    """Bytes to the server for each of so many events, each with a text of 2 KiB of one record."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        await _append(stage, store, _jobs(store, events, body=bytes(TEXT_BYTES)))
        views = ProjectionStore(store.transport, store.cell)
        before = await net_in_bytes(stage.redis)
        await _fold(Projector(views, ProjectionSet("texts", (Texts(),))))
        return (await net_in_bytes(stage.redis) - before) / events


async def _fold(projector: Projector) -> None:
    while (await projector.step()).state != "idle":
        pass


async def _append(stage: Stage, store: Store, events: Iterable[Event]) -> None:
    """Append events to the log as functions do."""
    await store.fire_timers()
    pipeline = stage.redis.pipeline(transaction=False)
    for number, event in enumerate(events):
        pipeline.xadd(store.keys.log, encode(event))  # type: ignore[arg-type]
        if number % BATCH == BATCH - 1:
            await pipeline.execute()
    await pipeline.execute()


def _jobs(store: Store, count: int, body: bytes = b"") -> Iterator[Event]:
    full = store.keys.full("long")
    for number in range(count):
        utterance, at = divmod(number, len(TARGETS))
        key = job_key("bench", full, utterance, TARGETS[at], "none")
        queued = JobQueued(
            utterance=utterance, target=TARGETS[at], delivery_no=utterance, source="en",
            attempt=1, reason="NO_AVAILABLE_NODE", priority=1, tag=0, member=f"{0:016d}:{key}",
            deadline_ms=1,
        )  # fmt: skip
        yield _event(full, key, queued, body)


def _event(session: str, job: str, data: AnyData, body: bytes = b"") -> Event:
    return Event(id="", type=type(data).__name__, session=session, job=job, data=data, body=body)


VIEW_ROWS = (
    Row(
        "long save of a retirement, by jobs of the session", "us of the server",
        (480, 2_000, 8_000), 0.4, saves_of_a_retirement,
        before="2,000 / 9,400 / 45,400",
    ),
    Row(
        "writes of a record in a rebuild, by records", "writes",
        (1_000, 4_000, 16_000), 0.1, writes_of_a_record,
        before="1 / 1 / 4",
    ),
    Row(
        "folding into one record, by events", "bytes to the server an event",
        (250, 1_000, 4_000), 0.1, bytes_of_a_growing_record,
        before="5,200 / 17,800 / 66,100",
    ),
)  # fmt: skip
