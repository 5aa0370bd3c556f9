"""Retrying the events that read models could not fold: a rebuild folds them again, in their order.

Owns: which read models the dead letters name, and the rebuild of each set.
Must not: delete dead letters; audit/dead_letters.py does, for the events that were folded.
Read next: rebuild.py, lua/retry_dead_letters.lua.

An event that was left out cannot be folded later: its record has gone on without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import EventschedError
from eventsched.history.log import History
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.roles.rebuild import Rebuild
from eventsched.schema.nesting import check_json
from eventsched.store.cell import Store
from eventsched.store.operator_commands import Act


class RebuildRunning(EventschedError):
    """Raised when another rebuild of the same projection set is running."""

    @classmethod
    def of(cls, projection_set: str, cell: str) -> RebuildRunning:
        """Return the error for a set of a cell."""
        return cls(f"a rebuild of {projection_set} is running in {cell}; wait")


class _Context(msgspec.Struct, frozen=True):
    """What the dead letter of an event says about the fold that failed."""

    set: str = ""
    projections: tuple[str, ...] = ()
    """The projections that failed; empty if the entry could not be decoded."""


async def refold(
    store: Store,
    sets: Iterable[ProjectionSet],
    letters: Sequence[Mapping[str, Any]],
    act: Act,
    archive: ArchiveFolder | None = None,
) -> list[str]:
    """Rebuild the read models that could not fold the events of these dead letters.

    Args:
        store: The cell.
        sets: The projection sets that are enabled here.
        letters: Dead letters, as `read_dead_letters` yields them; those of work are skipped.
        act: Who does it and why.
        archive: The archive with the entries that are trimmed from the log.

    Returns:
        Ids of the dead letters whose events could not be folded by the rebuild either, or whose
        read model is not enabled here.

    Raises:
        TooManyFailures: A read model still cannot fold an event; the old records stay live.
        RebuildFailed: The new revisions were not promoted.
        RebuildRunning: Another rebuild of the set is running.
    """
    by_set: dict[str, dict[str, _Context]] = {}
    event_of: dict[str, str] = {}
    for letter in letters:
        if letter["source"] == "log":
            entry_id = letter["id"].partition("/")[2]
            context = _context(letter["data"])
            by_set.setdefault(context.set, {})[entry_id] = context
            event_of[entry_id] = letter["source_id"]
    if not by_set:
        return []
    enabled = {each.name: each for each in sets}
    left_out: list[str] = []
    for number, (name, contexts) in enumerate(sorted(by_set.items())):
        if name not in enabled:
            left_out += contexts
            continue
        watched = {event_of[entry_id] for entry_id in contexts}
        part = act.part(f"rebuild{number}")
        failed = await _rebuild(store, enabled[name], contexts, watched, part, archive)
        left_out += [entry_id for entry_id in contexts if event_of[entry_id] in failed]
    return left_out


async def _rebuild(
    store: Store,
    projection_set: ProjectionSet,
    contexts: Mapping[str, _Context],
    watched: set[str],
    act: Act,
    archive: ArchiveFolder | None,
) -> set[str]:
    """Rebuild the projections that failed. Returns the watched events that were left out."""
    known = [projection.name for projection in projection_set.projections]
    failed = {name for each in contexts.values() for name in each.projections or known}
    projection_store = ProjectionStore(store.transport, store.cell)
    rebuild = Rebuild(
        projection_store,
        projection_set,
        [name for name in known if name in failed],
        history=await History.open(projection_store, archive, projection_set),
        act=act,
        watched=watched,
    )
    result = await rebuild.run()
    if result is None:
        raise RebuildRunning.of(projection_set.name, store.cell)
    return set(result.left_out)


def _context(data: str) -> _Context:
    try:
        return msgspec.json.decode(check_json(data.encode()), type=_Context)
    except msgspec.DecodeError:
        return _Context()
