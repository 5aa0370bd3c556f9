"""`eventsched report SESSION -o FILE`: one page about a session, with proofs.

Owns: the options of the command, writing the file or standard output.
Never does: reading, or writing HTML. Read next: report/content.py, report/page.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eventsched.cli.options import Archive, Keys, Options, command

Session = Annotated[str, typer.Argument(metavar="SESSION", help="Session <cell>.<name>.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the page into this file; `-`: print it."
    ),
]


@command
async def report(
    options: Options, session: Session, output: Output, archive: Archive = None, keys: Keys = None
) -> None:
    """Write a page about a session: its picture, what was said, its events, reasons and proofs.

    The page loads nothing and runs nothing, so that it can be kept and printed. With --archive it
    has proofs that `eventsched audit check-proof` checks without archive and server. Encrypted
    texts are in it if the key store has their keys. The id of the session may be shortened to a
    beginning that no other session has.
    """
    import anyio

    from eventsched.cli.output import print_json, print_line
    from eventsched.encryption.decrypt import EventDecryptor
    from eventsched.encryption.keystore import find_key_store
    from eventsched.errors import EventschedError
    from eventsched.formatting import plural
    from eventsched.history.short_ids import expand
    from eventsched.report.content import read_report
    from eventsched.report.page import write_page

    async with options.history_source(archive) as source:
        key_store = find_key_store(keys)
        content = await read_report(
            source, await expand(source, session), EventDecryptor(key_store) if key_store else None
        )
    if str(output) == "-":
        sys.stdout.buffer.write(write_page(content).encode())
        return
    try:
        await anyio.Path(output).write_text(write_page(content), encoding="utf-8")
    except OSError as error:
        raise EventschedError(f"cannot write {output}: {error.strerror}") from error
    proven = content.proofs.count if content.proofs is not None else 0
    if options.json:
        print_json({"session": content.session, "events": len(content.events), "proven": proven})
        return
    events = plural(len(content.events), "event")
    print_line(f"{output}: {content.session}, {events}, {proven:,} of them proven")
