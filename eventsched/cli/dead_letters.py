"""`eventsched dead-letters`: list the dead letters; `retry` processes some again, `discard` deletes
those that are no work.

Owns: the printed list, which dead letters an act is about, the messages about it.
Never does: the act itself. Read next: audit/dead_letters.py, roles/refold.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsched.cli.options import Archive, By, Options, Request, Why, act_of, command
from eventsched.errors import InvalidMessage
from eventsched.schema.ids import ms_of

if TYPE_CHECKING:
    from eventsched.audit.dead_letters import LetterOutcome
    from eventsched.store.cell import Store
    from eventsched.store.connection import Connection

SHOWN_MAX = 50
"""Dead letters in the text output; --json prints all."""
LIMIT = 10_000
"""Dead letters that one command retries or discards without --limit."""
app = typer.Typer(add_completion=False, help="List dead letters, retry or discard some.")

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID…]", help="Ids from the list, such as c0/1700000000000-0."),
]
Match = Annotated[
    str | None,
    typer.Option("--match", metavar="TEXT", help="Those whose kind, entry or reason has TEXT."),
]
Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=0, help="At most N of them, the oldest first.")
]
Force = Annotated[bool, typer.Option("--force", help="Retry even partially processed entries.")]


@app.callback(invoke_without_command=True)
@command
async def dead_letters(options: Options, context: typer.Context) -> None:
    """List the entries that could not be processed, oldest first, with the reason."""
    if context.invoked_subcommand is not None:
        return
    from eventsched.cli.output import print_json
    from eventsched.history.dead_letters import read_dead_letters

    async with options.connect() as connection:
        letters = [
            letter
            for store in connection.stores.values()
            async for letter in read_dead_letters(store)
        ]
    if options.json:
        for letter in letters:
            print_json(letter)
    else:
        _show(letters)


@app.command()
@command
async def retry(
    options: Options,
    ids: Ids = None,
    match: Match = None,
    limit: Limit = 0,
    why: Why = "",
    by: By = "",
    request: Request = "",
    force: Force = False,
    archive: Archive = None,
) -> int:
    """Process dead letters again: those named, or those that --match and --limit choose.

    Targets that already have a job or an outcome are skipped. For the event of a read model, mend
    its code first: the read model is rebuilt, and the dead letter goes if its event was folded. A
    partial entry, whose first processing failed after its first write, needs --force; run
    `eventsched verify` before. The exit code is 1 if a dead letter stays.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.audit.dead_letters import retry_dead_letters
    from eventsched.projection.installed import load_sets
    from eventsched.roles.refold import refold

    act = act_of(why, by, request)
    folder = ArchiveFolder.open(archive) if archive else None
    outcomes: list[LetterOutcome] = []
    async with options.connect() as connection:
        for store, letters in (await _chosen(connection, ids, match, limit)).items():
            left_out = await refold(store, load_sets(), letters, act, folder)
            entry_ids = [entry_id for entry_id in _entry_ids(letters) if entry_id not in left_out]
            outcomes += await retry_dead_letters(
                store, entry_ids, act, chosen_by=_filter(match, limit), force=force
            )
            outcomes += [_not_folded(store, entry_id) for entry_id in left_out]
    return _report(options, outcomes, ids)


@app.command()
@command
async def discard(
    options: Options,
    ids: Ids = None,
    match: Match = None,
    limit: Limit = 0,
    why: Why = "",
    by: By = "",
    request: Request = "",
) -> int:
    """Delete dead letters that are no work: those named, or those that --match and --limit choose.

    These are events that a read model could not fold, and entries that no release can read. The
    events stay in the log: a rebuild folds them, once the read model can. Other dead letters are
    not deleted, because they are work that nothing else does: retry them. The exit code is 1 if a
    dead letter stays.
    """
    from eventsched.audit.dead_letters import discard_dead_letters

    act = act_of(why, by, request)
    outcomes: list[LetterOutcome] = []
    async with options.connect() as connection:
        for store, letters in (await _chosen(connection, ids, match, limit)).items():
            outcomes += await discard_dead_letters(
                store, _entry_ids(letters), act, chosen_by=_filter(match, limit)
            )
    return _report(options, outcomes, ids)


def _show(letters: list[dict[str, Any]]) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import day_and_clock
    from eventsched.tables import Text, table

    if not letters:
        console().print("no dead letters")
        return
    result = table("ID", "TIME", "ENTRY", "REASON")
    result.columns[0].no_wrap = True
    for letter in letters[:SHOWN_MAX]:
        time = day_and_clock(ms_of(letter["id"].partition("/")[2]))
        entry = f"{letter['kind']} {letter['source']}/{letter['source_id']}"
        entry += " (partial)" * letter["partial"]
        result.add_row(letter["id"], time, Text(entry), Text(letter["reason"]))
    console().print(result)
    if len(letters) > SHOWN_MAX:
        console().print(f"and {len(letters) - SHOWN_MAX:,} more, see --json")


def _report(options: Options, outcomes: Sequence[LetterOutcome], ids: Sequence[str] | None) -> int:
    """Print what was done with each dead letter, and return the exit code.

    Raises NotFound or ActRefused if one dead letter was named and stays.
    """
    from eventsched.audit.dead_letters import REASONS
    from eventsched.cli.output import print_json, print_line
    from eventsched.formatting import plural

    if ids and len(ids) == 1:
        outcomes[0].check()
    stays = [each for each in outcomes if not each.is_done]
    if options.json:
        for each in outcomes:
            print_json(each)
        return 1 if stays else 0
    for each in outcomes[:SHOWN_MAX]:
        print_line(f"{each.id}: {REASONS.get(each.outcome) or _done(each)}")
    if not outcomes:
        print_line("no dead letter is chosen; `eventsched dead-letters` lists them")
    elif len(outcomes) != 1:
        done = plural(len(outcomes) - len(stays), "dead letter")
        print_line(f"{done} changed" + (f", {len(stays):,} stay" if stays else ""))
    return 1 if stays else 0


def _done(outcome: LetterOutcome) -> str:
    match outcome.outcome:
        case "removed":
            return "removed, all its targets have a job or an outcome"
        case "discarded":
            return "discarded; the log keeps its events"
    skipped = f", {outcome.skipped} skipped" if outcome.skipped else ""
    return f"retried ({outcome.retried}{skipped})"


def _not_folded(store: Store, entry_id: str) -> LetterOutcome:
    from eventsched.audit.dead_letters import LetterOutcome

    return LetterOutcome(id=f"{store.cell}/{entry_id}", outcome="projection")


def _entry_ids(letters: Sequence[Mapping[str, Any]]) -> list[str]:
    return [letter["id"].partition("/")[2] for letter in letters]


def _filter(match: str | None, limit: int) -> str:
    """How the operator chose the dead letters, for the event; empty if by their ids."""
    parts = [f"match {match}"] if match is not None else []
    return ", ".join([*parts, *([f"limit {limit}"] if limit else [])])


async def _chosen(
    connection: Connection, ids: Sequence[str] | None, match: str | None, limit: int
) -> Mapping[Store, list[dict[str, Any]]]:
    """Return the dead letters that an act is about, by cell."""
    from eventsched.audit.dead_letters import choose, find

    if ids:
        if match is not None or limit:
            raise InvalidMessage.of(
                "ID", "not with --match or --limit", "name dead letters, or choose them"
            )
        entry_ids: dict[Store, list[str]] = {}
        for id_ in ids:
            store, entry_id = _cell_of(connection, id_)
            entry_ids.setdefault(store, []).append(entry_id)
        return {store: await find(store, listed) for store, listed in entry_ids.items()}
    if match is None and not limit:
        raise InvalidMessage.of(
            "ID", "no dead letter is named", "name some, or use --match TEXT or --limit N"
        )
    chosen: dict[Store, list[dict[str, Any]]] = {}
    left = limit or LIMIT
    for store in connection.stores.values():
        if letters := await choose(store, match or "", left):
            chosen[store] = letters
            left -= len(letters)
    return chosen


def _cell_of(connection: Connection, id_: str) -> tuple[Store, str]:
    """Return the store of the cell and the entry id.

    Args:
        connection: the connection with all cells.
        id_: `<cell>/<id>`; the cell may be left out if there is only one.
    """
    cell, slash, entry_id = id_.rpartition("/")
    if slash:
        store = connection.stores.get(cell)
        if store is None:
            cells = ", ".join(connection.cells)
            raise InvalidMessage.of("ID", f"no cell {cell!r}", f"the cells are {cells}")
        return store, entry_id
    if len(connection.stores) > 1:
        raise InvalidMessage.of(
            "ID", "<cell>/<id> expected", "copy it from `eventsched dead-letters`"
        )
    return next(iter(connection.stores.values())), entry_id
