"""Retrying or discarding a dead letter, for operators.

Owns: what each reply of the script means. Must not: list dead letters.
Read next: lua/retry_dead_letter.lua, history/dead_letters.py (lists them).
"""

from __future__ import annotations

import msgspec

from eventsched.errors import EventschedError, InvalidMessage, NotFound
from eventsched.schema.ids import is_id
from eventsched.store.cell import Store


class RetryRefused(EventschedError):
    """Raised when a dead letter cannot be retried or discarded and stays in the list."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """What the retry of a dead letter did."""

    id: str
    """`<cell>/<entry id>`."""
    outcome: str
    """`retried`, or `removed` if all its targets have a job or an outcome."""
    retried: int
    """Targets that are processed again."""
    skipped: int
    """Targets that have a job or an outcome already."""


async def retry_dead_letter(store: Store, entry_id: str, *, force: bool) -> Retry:
    """Process a dead letter again.

    Args:
        store: The cell.
        entry_id: Id of the entry in the list of dead letters.
        force: Retry even an entry that was processed partially.

    Raises:
        NotFound: There is no such dead letter.
        RetryRefused: The dead letter stays in the list.
    """
    full_id = f"{store.cell}/{entry_id}"
    done = await store.retry_dead_letter(entry_id, force=force)
    match done.word:
        case "unknown":
            raise NotFound(f"no dead letter {full_id}")
        case "partial":
            raise RetryRefused(
                f"{full_id} was processed partially: run `eventsched verify`, then retry with "
                f"--force"
            )
        case "projection":
            raise RetryRefused(
                f"{full_id} could not be folded: repair the read model, rebuild it, then discard it"
            )
        case "unreadable":
            raise RetryRefused(f"{full_id} cannot be read by this version; a later one may read it")
    outcome = "removed" if done.word == "passed_over" else done.word
    return Retry(id=full_id, outcome=outcome, retried=done.retried, skipped=done.passed_over)


async def discard_dead_letter(store: Store, entry_id: str) -> None:
    """Delete the dead letter of an event that a read model could not fold.

    Args:
        store: The cell.
        entry_id: Id of the entry in the list of dead letters.

    Raises:
        InvalidMessage: The text is no id of an entry.
        NotFound: There is no such dead letter.
        RetryRefused: The dead letter is work that nothing else does, and stays in the list.
    """
    if not is_id(entry_id):
        raise InvalidMessage.of("ID", "an id from the list expected", "copy it from the list")
    full_id = f"{store.cell}/{entry_id}"
    match await store.discard_dead_letter(entry_id):
        case "unknown":
            raise NotFound(f"no dead letter {full_id}")
        case "work":
            raise RetryRefused(f"{full_id} is work that is not done: retry it")
