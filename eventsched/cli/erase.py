"""`eventsched erase`: erase one encrypted session, or all that closed long ago.

Owns: the choice of the sessions, the messages. Never does: the erasure itself.
Read next: audit/erasure.py, docs/privacy.md.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from eventsched.cli.options import Archive, Keys, Options, command
from eventsched.errors import InvalidMessage, KeyStoreError

if TYPE_CHECKING:
    from eventsched.audit.erasure import Eraser, ErasureState
    from eventsched.encryption.keystore import KeyStore
    from eventsched.store.connection import Connection

Session = Annotated[
    str | None,
    typer.Argument(metavar="SESSION", help="Id <cell>.<name> of a closed or retired session."),
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        envvar="EVENTSCHED_RETENTION",
        show_envvar=False,
        help="All sessions closed for this long: 90m, 12h, 30d [EVENTSCHED_RETENTION].",
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
    """Erase an encrypted session by destroying its key: its texts and audio become unreadable.

    The event SessionErased records the erasure. Afterwards the server rewrites its append-only
    file. The command may be repeated. It fails if a session was not erased, and erases the others.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.audit.erasure import Eraser, NotErasable
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
        count, refused = 0, 0
        async for due in _due(eraser, key_store, session, age_ms):
            try:
                word = await eraser.erase(due)
            except NotErasable as error:
                if session is not None:
                    raise
                refused += 1
                _print_refused(options, due.session, str(error))
                continue
            count += 1
            if options.json:
                print_json({"session": due.session, "outcome": word})
            else:
                print_line(f"{due.session}: {word.replace('_', ' ')}")
        if age_ms is not None and not count and not refused and not options.json:
            print_line(f"no session with a key has been closed for {older_than}")
        if eraser.unknown:
            keys_text = plural(eraser.unknown, "key")
            notes().print(f"{keys_text} not destroyed: not the keys of this server's sessions")
        if count:
            await _rewrite(connection, options)
        if refused:
            raise NotErasable(f"{plural(refused, 'session')} not erased")


def _print_refused(options: Options, session: str, reason: str) -> None:
    from eventsched.cli.output import print_json, print_line

    if options.json:
        print_json({"session": session, "outcome": "not_erased", "reason": reason})
    else:
        print_line(f"{session}: not erased: {reason}")


def age_of(text: str) -> int:
    """Return the milliseconds of `90m`, `12h` or `30d`. Raises InvalidMessage."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise InvalidMessage.of("--older-than", f"90m, 12h or 30d, not {text!r:.40}", "change it")
    return int(match[1]) * _UNIT_MS[match[2]]


async def _due(
    eraser: Eraser, key_store: KeyStore, session: str | None, age_ms: int | None
) -> AsyncIterator[ErasureState]:
    """Yield the named session, or all sessions that closed at least `age_ms` ago."""
    from eventsched.cli.output import progress

    if session is not None:
        yield await eraser.find(session)
    elif age_ms is not None:
        sessions = await key_store.sessions()
        with progress("sessions with a key", len(sessions)) as set_progress:
            async for due in eraser.older_than(age_ms, sessions, set_progress):
                yield due


async def _rewrite(connection: Connection, options: Options) -> None:
    """Rewrite the append-only file of the server; on a cluster, of each cell's server."""
    from eventsched.audit.erasure import rewrite_files
    from eventsched.cli.output import print_json, print_line, progress
    from eventsched.formatting import size

    stores = list(connection.stores.values())
    for store in stores if connection.facts.is_cluster else stores[:1]:
        with progress("append-only file", 100) as set_progress:
            file_bytes = await rewrite_files(store, set_progress)
        where = f" of {store.cell}'s server" if connection.facts.is_cluster else ""
        if options.json:
            print_json({"append_only_file_bytes": file_bytes})
        elif file_bytes is None:
            print_line(f"no append-only file{where} to rewrite")
        else:
            print_line(f"append-only file{where} rewritten: {size(file_bytes)}")
