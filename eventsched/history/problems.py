"""The conditions of a server that need a person, as `eventsched status --check` prints them.

Owns: the list of these conditions. Never does: reads, decide.
Read next: status.py, docs/operations.md (what to do about each).
"""

from __future__ import annotations

from collections.abc import Iterator

from eventsched.errors import REPAIR
from eventsched.formatting import duration, plural, size
from eventsched.history.consumer_groups import ConsumerGroupStatus
from eventsched.history.roles import RoleStatus
from eventsched.history.status import CellStatus, ConsumerStatus, SystemStatus
from eventsched.store.lag import ARCHIVE

LATE_MS = {"dispatch": 5_000, ARCHIVE: 600_000}
"""Lag from which a consumer is late; the archiver seals every five minutes."""
LATE_MS_DEFAULT = 10_000
HELD_UP_MS = IDLE_MS = 3_600_000
"""A consumer group of another program that keeps so much of the log, and has not read for so long,
is probably abandoned."""
NAMES_MAX = 10
"""Nodes that a line names."""


def problems_of(status: SystemStatus) -> list[str]:
    """Return one line for each condition that needs a person."""
    return [f"{cell.cell}: {problem}" for cell in status.cells for problem in _of_cell(cell)]


def role_problems(roles: list[RoleStatus]) -> list[str]:
    """Return one line for each role that is missing or failing."""
    return [f"{role.name}: {role.problem}" for role in roles if role.problem]


def _of_cell(cell: CellStatus) -> Iterator[str]:
    yield from role_problems(cell.roles)
    for reason in cell.backpressure:
        yield f"backpressure ({reason}): producers are refused"
    if cell.dead_letters:
        count = plural(cell.dead_letters, "dead letter")
        yield f"{count}, newest: {cell.newest_dead_letter}"
    yield from _refused_tenants(cell)
    for consumer in cell.consumers:
        if _is_late(consumer):
            yield f"{consumer.consumer} is {duration(consumer.oldest_ms)} late"
    for group in cell.consumer_groups:
        if _is_abandoned(group):
            time = duration(group.holds_up_ms)
            yield f"consumer group {group.group} is idle and keeps {time} of the log from trimming"
    for waiting in cell.waiting:
        if waiting.reason == "NO_POOL_FOR_LANG_PAIR":
            pair = f"{waiting.source} → {waiting.target}"
            yield f"{plural(waiting.jobs, 'job')} {pair} wait: no node serves them"
    yield from _of_nodes(cell)


def _of_nodes(cell: CellStatus) -> Iterator[str]:
    for each in cell.classes:
        for node in each.nodes:
            if node.damaged:
                fields = ", ".join(node.damaged)
                yield f"the record of {node.node} is damaged ({fields}): {REPAIR} mends it"
        if each.suspended and each.nodes:
            names = ", ".join(node.node for node in each.nodes[:NAMES_MAX])
            if len(each.nodes) > NAMES_MAX:
                names += f" and {len(each.nodes) - NAMES_MAX:,} more"
            subjects = "every job" if "*" in each.suspended else ", ".join(each.suspended)
            yield f"suspended for {subjects}: {names}"


def _refused_tenants(cell: CellStatus) -> Iterator[str]:
    for queue in cell.queues:
        if queue.is_refused:
            yield f"tenant {queue.tenant} is refused: {plural(queue.jobs, 'job')} wait"
    for outbox in cell.outboxes:
        if outbox.is_refused:
            unread = size(outbox.unread_bytes)
            yield f"tenant {outbox.tenant} is refused: {unread} of results wait to be read"
    for lagging in cell.lagging_tenants:
        entries = plural(lagging.lag, "entry", "entries")
        yield f"tenant {lagging.tenant} is refused: {entries} of the log are not folded"


def _is_abandoned(group: ConsumerGroupStatus) -> bool:
    is_idle = group.idle_ms is None or group.idle_ms > IDLE_MS
    return is_idle and group.holds_up_ms > HELD_UP_MS


def _is_late(consumer: ConsumerStatus) -> bool:
    return bool(consumer.lag) and consumer.oldest_ms > LATE_MS.get(
        consumer.consumer, LATE_MS_DEFAULT
    )
