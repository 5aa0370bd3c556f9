"""Retrying and discarding dead letters, for operators.

Owns: choosing dead letters by their text; the calls for many of them; what each reply means.
Must not: rebuild a read model; roles/refold.py does, before it retries the events of one.
Read next: lua/retry_dead_letters.lua, lua/discard_dead_letters.lua, history/dead_letters.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from eventsched.errors import EventschedError, InvalidMessage, NotFound
from eventsched.history.dead_letters import read_dead_letter, read_dead_letters
from eventsched.schema.ids import is_id
from eventsched.store.cell import Store
from eventsched.store.operator_commands import DISCARDED_MAX, RETRIED_MAX, Act

Outcome: TypeAlias = Literal[
    "retried", "removed", "discarded", "partial", "projection", "unreadable", "work", "unknown"
]
REASONS: dict[Outcome, str] = {
    "partial": "was processed partially: run `eventsched verify`, then retry it with --force",
    "projection": "could not be folded: mend the read model and retry it, or discard it",
    "unreadable": "cannot be read by this version; a later one may read it",
    "work": "is work that is not done: retry it",
    "unknown": "is no dead letter, or not any more",
}
"""Why a dead letter stays as it is, by outcome."""
FIELDS = ("kind", "source", "source_id", "reason")
"""Texts of a dead letter in which `choose` looks."""


class ActRefused(EventschedError):
    """Raised when a dead letter cannot be retried or discarded and stays in the list."""


class LetterOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a retry or a discard did with one dead letter."""

    id: str
    """`<cell>/<entry id>`."""
    outcome: Outcome
    """`retried`, `removed` if all its targets have a job or an outcome, `discarded`, or a key of
    REASONS: the dead letter stays."""
    retried: int = 0
    """Targets that are processed again."""
    skipped: int = 0
    """Targets that have a job or an outcome already."""

    @property
    def is_done(self) -> bool:
        """Whether the dead letter is no longer in the list because of the act."""
        return self.outcome not in REASONS

    def check(self) -> LetterOutcome:
        """Return it. Raises NotFound or ActRefused if the dead letter stays."""
        if self.outcome == "unknown":
            raise NotFound(f"no dead letter {self.id}")
        if not self.is_done:
            raise ActRefused(f"{self.id} {REASONS[self.outcome]}")
        return self


async def choose(store: Store, text: str, limit: int) -> list[dict[str, Any]]:
    """Return the dead letters of a cell in whose kind, entry or reason the text occurs.

    Args:
        store: The cell.
        text: The text; upper and lower case are the same. An empty text occurs in all.
        limit: The most dead letters to return, oldest first.
    """
    chosen: list[dict[str, Any]] = []
    async for letter in read_dead_letters(store):
        if len(chosen) == limit:
            break
        if matches(letter, text):
            chosen.append(letter)
    return chosen


def matches(letter: Mapping[str, Any], text: str) -> bool:
    """Return whether a text occurs in the kind, the entry or the reason of a dead letter."""
    return text.lower() in " ".join(str(letter[field]) for field in FIELDS).lower()


async def find(store: Store, entry_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the dead letters of a cell with these ids; one that is gone has the id alone.

    Raises:
        InvalidMessage: A text is no id of an entry.
    """
    _check_ids(entry_ids)
    return [
        await read_dead_letter(store, entry_id) or {"id": f"{store.cell}/{entry_id}", "source": ""}
        for entry_id in entry_ids
    ]


async def retry_dead_letters(
    store: Store, entry_ids: Sequence[str], act: Act, *, chosen_by: str = "", force: bool = False
) -> list[LetterOutcome]:
    """Process dead letters again. The event DeadLettersRetried records each part of 16 of them.

    The event of a read model counts as processed if the read model was rebuilt since.

    Args:
        store: The cell.
        entry_ids: Ids of entries in the list of dead letters.
        act: Who does it and why. Repeated with the same ids, it does nothing.
        chosen_by: How the operator chose them, for the event, at most 500 bytes.
        force: Retry even entries that were processed partially.

    Returns:
        What was done with each, in their order.

    Raises:
        InvalidMessage: A text is no id of an entry, or the act has no reason.
    """
    _check_ids(entry_ids)
    outcomes: list[LetterOutcome] = []
    for number, part in enumerate(_parts(entry_ids, RETRIED_MAX)):
        replies = await store.retry_dead_letters(
            part, act.part(number), chosen_by=chosen_by, force=force
        )
        outcomes += (
            LetterOutcome(
                id=f"{store.cell}/{entry_id}",
                outcome="removed" if reply.word == "passed_over" else reply.word,
                retried=reply.retried,
                skipped=reply.passed_over,
            )
            for entry_id, reply in zip(part, replies, strict=True)
        )
    return outcomes


async def retry_dead_letter(
    store: Store, entry_id: str, act: Act, *, force: bool = False
) -> LetterOutcome:
    """Process one dead letter again.

    Args:
        store: The cell.
        entry_id: Id of the entry in the list of dead letters.
        act: Who does it and why.
        force: Retry even an entry that was processed partially.

    Raises:
        NotFound: There is no such dead letter.
        ActRefused: The dead letter stays in the list.
    """
    (outcome,) = await retry_dead_letters(store, [entry_id], act, force=force)
    return outcome.check()


async def discard_dead_letters(
    store: Store, entry_ids: Sequence[str], act: Act, *, chosen_by: str = ""
) -> list[LetterOutcome]:
    """Delete dead letters that are no work: events of read models, and entries nobody can read.

    The event DeadLettersDiscarded records each part of 128 of them. The log keeps the events.

    Args:
        store: The cell.
        entry_ids: Ids of entries in the list of dead letters.
        act: Who does it and why. Repeated with the same ids, it does nothing.
        chosen_by: How the operator chose them, for the event, at most 500 bytes.

    Returns:
        What was done with each, in their order.

    Raises:
        InvalidMessage: A text is no id of an entry, or the act has no reason.
    """
    _check_ids(entry_ids)
    outcomes: list[LetterOutcome] = []
    for number, part in enumerate(_parts(entry_ids, DISCARDED_MAX)):
        words = await store.discard_dead_letters(part, act.part(number), chosen_by=chosen_by)
        outcomes += (
            LetterOutcome(id=f"{store.cell}/{entry_id}", outcome=word)
            for entry_id, word in zip(part, words, strict=True)
        )
    return outcomes


async def discard_dead_letter(store: Store, entry_id: str, act: Act) -> LetterOutcome:
    """Delete one dead letter that is no work.

    Args:
        store: The cell.
        entry_id: Id of the entry in the list of dead letters.
        act: Who does it and why.

    Raises:
        InvalidMessage: The text is no id of an entry.
        NotFound: There is no such dead letter.
        ActRefused: The dead letter is work that nothing else does, and stays in the list.
    """
    (outcome,) = await discard_dead_letters(store, [entry_id], act)
    return outcome.check()


def _check_ids(entry_ids: Sequence[str]) -> None:
    for entry_id in entry_ids:
        if not is_id(entry_id):
            raise InvalidMessage.of("ID", "an id from the list expected", "copy it from the list")


def _parts(entry_ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (entry_ids[first : first + size] for first in range(0, len(entry_ids), size))
