"""The large system that the benchmark `console` reads.

Owns: nodes, waiting jobs, a long session, the earlier events of the log; all is folded.
Never does: measure. Read next: console_reads.py, load.py.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.micro.load import finalize_utterances, open_sessions, register_nodes
from benchmarks.micro.worked import record_all
from eventsched.projection.store import ProjectionStore
from eventsched.roles.dispatcher import Dispatcher
from eventsched.roles.projector import Projector
from eventsched.store.cell import Store
from projections import core

CLASSES = 16
WAITING_SESSIONS = 200
OPEN_MAX = 250
"""Utterances of a session that are finalized before their jobs are dispatched."""
BATCH = 1_000
COPIED = 5_000
"""Events that are copied together."""
OF_JOBS = (b"UtteranceFinalized", b"JobDispatched", b"ResultRecorded")


class Size(NamedTuple):
    """How large the system is."""

    waiting: int
    nodes: int
    utterances: int
    events: int
    """Entries of the log before the long session."""


async def fill(store: Store, size: Size) -> str:
    """Make the system and fold it; return the long session."""
    nodes = await register_nodes(store, min(8, size.nodes))
    dispatcher, positions = Dispatcher(store), dict.fromkeys((each.node for each in nodes), "-")

    async def speak(name: str, utterances: int) -> str:
        (spoken,) = await open_sessions(store, 1, prefix=name)
        for first in range(0, utterances, OPEN_MAX):
            numbers = range(first, min(utterances, first + OPEN_MAX))
            await finalize_utterances(store, [spoken], numbers)
            while (await dispatcher.step()).left:
                await record_all(store, nodes, positions)
            await record_all(store, nodes, positions)
        return spoken.session

    await speak("past", min(OPEN_MAX, size.utterances))
    await _fold(store)
    await _copy_events(store, size.events)
    session = await speak("session", size.utterances)
    await register_nodes(store, size.nodes, classes=CLASSES)
    waiting = await open_sessions(store, WAITING_SESSIONS, [("de", "pl")], prefix="waiting")
    for first in range(0, size.waiting // WAITING_SESSIONS, OPEN_MAX):
        end = min(size.waiting // WAITING_SESSIONS, first + OPEN_MAX)
        await finalize_utterances(store, waiting, range(first, end))
        while (await dispatcher.step()).left:
            pass
    await _fold(store)
    return session


async def _fold(store: Store) -> None:
    projector = Projector(ProjectionStore(store.transport, store.cell), core, batch_max=BATCH)
    while (await projector.step()).state != "idle":
        pass
    await projector.release()


async def _copy_events(store: Store, count: int) -> None:
    """Append copies of the events of the log until it has `count`, and let the views pass by them.

    The copies are the events of a session that nobody reads: what counts is that they are there.
    """
    log = store.keys.log
    entries = await store.read_range(log, "-", "+", COPIED)
    entries = [entry for entry in entries if not set(OF_JOBS).isdisjoint(entry[1])]
    have = await store.transport.command("XLEN", log, key=log)
    while have < count:
        flat = [fields for _, fields in entries[: count - have]]
        await store.transport.commands([("XADD", log, "*", *fields) for fields in flat])
        have += len(flat)
    last = await store.last_id(log)
    checkpoint = store.keys.checkpoint(core.name)
    await store.transport.command("SET", checkpoint, last, key=checkpoint)
    await store.transport.command(
        "XGROUP", "SETID", log, core.name, last, "ENTRIESREAD", have, key=log
    )
