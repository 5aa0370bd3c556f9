"""`eventsched erase SESSION`, or all that closed long ago: nobody can read them any more."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsched.cli.options import Archive, Keys, Options, command
from eventsched.errors import InvalidMessage, KeyStoreError

if TYPE_CHECKING:
    from eventsched.audit.erasure import Eraser, ErasureState
    from eventsched.encryption.keystore import KeyStore
    from eventsched.store.connection import Connection

Session = Annotated[
    str | None, typer.Argument(metavar="SESSION", help="Its id, <cell>.<name>; closed or retired.")
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        envvar="EVENTSCHED_RETENTION",
        show_envvar=False,
        help="Every session that closed so long ago: 90m, 12h, 30d [EVENTSCHED_RETENTION].",
    ),
]
_AGE = re.compile(r"(\d{1,6})([mhd])")
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


@command
async def erase(
    options: Options,
    session: Session = None,
    older_than: OlderThan = None,
    keys: Keys = None,
    archive: Archive = None,
) -> None:
    """Destroy the key of an encrypted session: what was said can be read by nobody any more.

    That is on record as an event. Then the server's append-only file is rewritten. Asking again
    is harmless.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.audit.erasure import Eraser
    from eventsched.cli.output import notes, print_json, print_line
    from eventsched.encryption.keystore import VARIABLE, find_key_store
    from eventsched.formatting import plural

    key_store = find_key_store(keys)
    if key_store is None:
        raise KeyStoreError(f"no key store is named: --keys DIR, or {VARIABLE}")
    if session is None and older_than is None:
        raise InvalidMessage.of("SESSION", "none is named", "name one, or give --older-than AGE")
    age_ms = None if older_than is None or session is not None else age_of(older_than)
    folder = ArchiveFolder.open(archive) if archive is not None else None
    async with options.connect() as connection:
        eraser = Eraser(connection, key_store, folder)
        count = 0
        async for state in _due(eraser, key_store, session, age_ms):
            result = await eraser.erase(state)
            count += 1
            if options.json:
                print_json({"session": state.session, "result": result})
            else:
                print_line(f"{state.session}: {result.replace('_', ' ')}")
        if age_ms is not None and not count and not options.json:
            print_line(f"nothing with a key has been closed for {older_than}")
        if eraser.unknown:
            told = plural(eraser.unknown, "key")
            notes().print(f"{told} left alone: this server knows nothing of their sessions")
        if count:
            await _rewrite(connection, options)


def age_of(told: str) -> int:
    """`90m`, `12h` or `30d` in ms. Raises InvalidMessage."""
    match = _AGE.fullmatch(told)
    if match is None:
        raise InvalidMessage.of("--older-than", f"90m, 12h or 30d, not {told!r:.40}", "change it")
    return int(match[1]) * _UNIT_MS[match[2]]


async def _due(
    eraser: Eraser, key_store: KeyStore, session: str | None, age_ms: int | None
) -> AsyncIterator[ErasureState]:
    from eventsched.cli.output import progress

    if session is not None:
        yield await eraser.find(session)
    elif age_ms is not None:
        sessions = await key_store.sessions()
        with progress("sessions with a key", len(sessions)) as moved:
            async for state in eraser.older_than(age_ms, sessions, moved):
                yield state


async def _rewrite(connection: Connection, options: Options) -> None:
    """Once for all cells of a server; each cell's own on a cluster."""
    from eventsched.audit.erasure import rewrite_files
    from eventsched.cli.output import print_json, print_line, progress
    from eventsched.formatting import size

    stores = list(connection.stores.values())
    for store in stores if connection.facts.is_cluster else stores[:1]:
        with progress("append-only file", 100) as moved:
            done = await rewrite_files(store, moved)
        where = f" of {store.cell}'s server" if connection.facts.is_cluster else ""
        told: dict[str, Any] = {"append_only_file_bytes": done}
        if options.json:
            print_json(told)
        elif done is None:
            print_line(f"no append-only file{where}: nothing to rewrite")
        else:
            print_line(f"append-only file{where} rewritten: {size(done)}")
