"""All records of any read model, over all cells, in the order of their ids, by pages.

For programs (`es.list`) and the command line (`eventsched list`), also of packages' read models.
No record is skipped or listed twice while others come and go. A console shows lists by time
instead: index_lists.py.

Owns: the id after which a page begins, which cell and id follow it.
Must not: write, or fold events: the list has the records that a projector has stored.
Read next: page.py, reader.py (one record, now or earlier), lua/list_views.lua.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventsched.errors import InvalidMessage, UnreadableRecord
from eventsched.history.page import Page, PageBuilder
from eventsched.history.reader import State
from eventsched.history.source import HistorySource, session_of_job
from eventsched.projection.installed import missing_read_model
from eventsched.projection.protocol import Projection, decode_record, record_codec
from eventsched.projection.store import LOADED_MAX, ProjectionStore, is_made_by
from eventsched.schema import keys

LIMIT_MAX = 1_000
"""Records of one page."""


async def list_records(
    source: HistorySource, kind: str, *, after: str = "", limit: int = LIMIT_MAX
) -> Page[State]:
    """Return a page of the current records, by cell and then by the bytes of their ids.

    Args:
        source: The server to read.
        kind: Name of the read model.
        after: Id of a record, existing or not: the list begins after it. Empty for the first page.
        limit: Greatest number of records, 1 to LIMIT_MAX.

    Raises:
        InvalidMessage: There is no such read model or cell, or the limit is out of range.
        UnreadableRecord: A stored record has another form; a rebuild replaces it.
    """
    projection = _projection(source, kind)
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidMessage.of("limit", f"1 to {LIMIT_MAX:,} expected, got {limit}", "change it")
    first, entity = _place(source, kind, after)
    page = PageBuilder[State](limit)
    for cell in source.cells[source.cells.index(first) :]:
        store = source.projection_store(cell)
        if store is None:
            raise InvalidMessage.of("kind", "an archive has no list of records", "name a server")
        while not page.is_full:
            count = min(LOADED_MAX, page.left)
            revision, records = await store.list_records(kind, entity, count)
            _check_version(projection, revision)
            for state in _states(store, projection, records):
                page.pass_by(state.id)
                page.add(state)
            if len(records) < count:
                break
            entity = records[-1][0]
        entity = ""
        if page.is_full:
            return page.build(is_last=False)
    return page.build(is_last=True)


def _projection(source: HistorySource, kind: str) -> Projection:
    known = {part.name: part for each in source.sets for part in each.projections}
    if kind not in known:
        raise missing_read_model("kind", kind, known)
    return known[kind]


def _place(source: HistorySource, kind: str, after: str) -> tuple[str, str]:
    """Return the cell in which the list begins, and the entity after which it begins there."""
    if not after:
        return source.cells[0], ""
    if kind == "job":
        return keys.cell_of(source.complete(session_of_job(after))), after
    full = source.complete(after)
    return keys.cell_of(full), keys.name_of(full)


def _states(
    store: ProjectionStore, projection: Projection, records: Iterable[tuple[str, dict[str, bytes]]]
) -> Iterable[State]:
    kind, codec = projection.name, record_codec(projection)
    for entity, fields in records:
        if fields:  # a call that failed may leave an id without a record
            yield State(
                kind=kind,
                id=entity if kind == "job" else store.keys.full(entity),
                cell=store.cell,
                at=fields["at"].decode(),
                is_live=True,
                view=decode_record(projection, codec, entity, fields),
            )


def _check_version(projection: Projection, revision: str) -> None:
    if revision and not is_made_by(revision, projection):
        version = revision.partition(".")[0]
        raise UnreadableRecord(
            f"the stored records of the read model {projection.name} are of its version {version}, "
            f"and this program has version {projection.version}; `eventsched rebuild "
            f"{projection.name}` folds them again"
        )
