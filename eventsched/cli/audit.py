"""`eventsched audit`: verify an archive, prove events, set segments aside, or abandon the archive.

Owns: the printed results of `verify`, `checkpoint`, `prove`, `check-proof`, `set-aside` and
`abandon`. The last two need a server: they record in the cells what log or archive have lost.
Never does: hashing, signing. Read next: archive/verifier.py, archive/proof.py,
archive/set_aside.py.
"""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from eventsched.cli.options import By, Options, Why, act_of, command, operator_name

if TYPE_CHECKING:
    from eventsched.archive.commands import ArchiveCommands, ArchiveState
    from eventsched.archive.layout import SetAsideNote
    from eventsched.archive.proof import CheckedProof

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Verify an archive.")

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The archive's folder.")]
Archive = Annotated[Path, typer.Option("--archive", metavar="DIR", help="The archive's folder.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Trusted public key, kept outside of the archive."),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="An earlier output of `audit checkpoint`, or the archiver's folder of checkpoints.",
    ),
]
Snapshots = Annotated[
    bool, typer.Option("--snapshots", help="Also recompute every snapshot (slow).")
]
Steps = Annotated[
    bool,
    typer.Option("--progress", help="With --json, also print a line for each step of progress."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Output file; else standard output.")
]
Event = Annotated[
    str, typer.Argument(metavar="EVENT", help="Id of the event, such as 1700000000000-0.")
]
Cell = Annotated[
    str | None, typer.Option("--cell", help="Cell of the event, if several cells have its id.")
]
ProofFile = Annotated[Path, typer.Argument(metavar="FILE", help="Output of `audit prove`.")]
KeyId = Annotated[
    str, typer.Argument(metavar="[KEY]", help="Key fingerprint, as the archiver logs it.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Abandon the archive and the entries in it.")]
SetAsideYes = Annotated[bool, typer.Option("--yes", help="Set the segments aside.")]


@app.command()
@command
async def verify(
    options: Options,
    dir_: Dir,
    checkpoint: CheckpointFile = None,
    key: KeyFile = None,
    snapshots: Snapshots = False,
    progress_: Steps = False,
) -> int:
    """Find every edit, deletion, insertion and reordering; the exit code is 1 if there is one.

    With a checkpoint, the command also finds segments that were removed from the end, and history
    that was sealed again with the same key. Segments that were set aside are listed as such. The
    output says for each problem which events it affects, and what the check cannot know.

    Without a trusted key or a checkpoint, the verdict is "consistent, key not checked": the maker
    of an archive can sign any history with a key of its own.
    """
    from eventsched.archive.verifier import Verifier
    from eventsched.cli.audit_report import show_report
    from eventsched.cli.output import print_json, progress
    from eventsched.errors import ArchiveError
    from eventsched.projection.installed import load_core

    core = load_core()
    verifier = Verifier(
        dir_, checkpoint=checkpoint, key=key, projection_set=core if snapshots else None
    )
    total = 0
    for name in verifier.folder.cells():
        try:
            head = verifier.folder.cell(name).records().head
        except ArchiveError:
            continue  # the verifier reports it and continues with the other cells
        total += head.events if head is not None else 0
    with nullcontext() if options.json else progress("verifying", total) as set_progress:
        if set_progress is not None:
            verifier.on_progress(set_progress)
        elif progress_:
            verifier.on_progress(lambda events: _print_progress(events, total))
        report = verifier.run()
    if options.json:
        print_json({"clean": not report.problems} | msgspec.to_builtins(report))
    else:
        show_report(report)
    return 1 if report.problems else 0


def _print_progress(events: int, total: int) -> None:
    from eventsched.cli.output import print_json

    print_json({"verified": events, "total": total})


@app.command()
@command
async def checkpoint(options: Options, dir_: Dir, out: Out = None) -> None:
    """Print the signed heads of the archive; store them in another place than the archive.

    With this checkpoint, `audit verify` also finds segments that were removed or sealed again.
    """
    from eventsched.archive.checkpoints import checkpoint_of
    from eventsched.archive.layout import ArchiveFolder

    _write(checkpoint_of(ArchiveFolder.open(dir_)), out)


@app.command()
@command
async def prove(
    options: Options, event: Event, archive: Archive, cell: Cell = None, out: Out = None
) -> None:
    """Print a proof (JSON) that the archive has the event, with its bytes, at its position."""
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.archive.manifest import encode
    from eventsched.archive.proof import prove as prove_event

    _write(encode(prove_event(ArchiveFolder.open(archive), event, cell)) + b"\n", out)


@app.command(name="check-proof")
@command
async def check_proof(options: Options, file: ProofFile, key: KeyFile = None) -> int:
    """Check a proof, or a file with a proof in each line, without the archive.

    The exit code is 0 only if each proves its event.

    With --key, it proves that the owner of this key has sealed these bytes under this id, at this
    position of this segment. Without a trusted key it proves nothing, and the exit code is 1.
    """
    from eventsched.archive.proof import check_proof as check
    from eventsched.archive.signing import read_public

    trusted = read_public(key) if key else None
    for line in _proofs_in(file):
        result = check(line, trusted, str(file))
        if options.json:
            _print_proof(result)
        else:
            _show_proof(result)
    if key is None and not options.json:
        _say_key_is_not_checked()
    return 0 if key else 1


def _proofs_in(file: Path) -> list[bytes]:
    """Return the lines of a file of proofs; one at least."""
    from eventsched.archive.files import read_named
    from eventsched.archive.proof import PROOFS_BYTES_MAX

    data = read_named(file, PROOFS_BYTES_MAX, "file of proofs")
    *lines, rest = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([rest] if rest or not lines else [])


def _print_proof(result: CheckedProof) -> None:
    from eventsched.cli.output import print_json

    proof, entry_type = result.proof, _type_of(result)
    fields: dict[str, Any] = {"valid": result.is_key_checked, "key_checked": result.is_key_checked}
    fields |= {"id": proof.id, "cell": proof.head.cell, "type": entry_type, "key": result.key}
    fields |= {"segment": proof.segment.n, "position": proof.position}
    print_json(fields | {"segments": proof.head.segments, "events": proof.head.events})


def _type_of(result: CheckedProof) -> str:
    return result.entry[1][1].decode("ascii", "replace")


def _show_proof(result: CheckedProof) -> None:
    from eventsched.archive.audit_text import KEY_NOT_CHECKED
    from eventsched.cli.output import print_line
    from eventsched.history.event_text import describe
    from eventsched.projection.fold import decode_event
    from eventsched.schema.events import Event

    proof, event = result.proof, decode_event(result.entry)
    verdict = "valid" if result.is_key_checked else KEY_NOT_CHECKED
    print_line(
        f"{verdict}: {_type_of(result)} {proof.id} of cell {proof.head.cell} is entry "
        f"{proof.position + 1:,} of segment {proof.segment.n}, signed by key {result.key} at "
        f"{proof.head.events:,} events"
    )
    if isinstance(event, Event):
        print_line(f"  {event.session or event.node}  {describe(event)}")


def _say_key_is_not_checked() -> None:
    from eventsched.cli.output import print_line

    print_line("This does not prove who signed it: name the public key that you trust by --key.")


@app.command(name="set-aside")
@command
async def set_aside(
    options: Options,
    archive: Archive,
    why: Why,
    by: By = "",
    yes: SetAsideYes = False,
) -> int:
    """Set the last segments of an archive aside, which the log has lost.

    A server that loses its last writes has a shorter log than the archive, and the archiver refuses
    to continue. The files of these segments move to a sub-folder, unchanged, and the event
    ArchiveSetAside records it. Without --yes, the command prints what it would move, changes
    nothing and ends with exit code 1.
    """
    from eventsched.archive.layout import ArchiveFolder, SetAsideNote
    from eventsched.archive.set_aside import SetAside
    from eventsched.archive.signing import fingerprint
    from eventsched.projection.store import ProjectionStore

    folder = ArchiveFolder.open(archive)
    by, found = by or operator_name(), False
    async with options.connect() as connection:
        for store in connection.stores.values():
            projection_store = ProjectionStore(store.transport, store.cell)
            action = SetAside(projection_store, folder.cell(store.cell), folder.public)
            if yes:
                note = await action.run(why=why, by=by, owner=secrets.token_hex(8))
            else:
                tail, key = await action.lost_tail(), fingerprint(folder.public)
                note = SetAsideNote.of(tail, key=key, why=why, by=by) if tail else None
            found = found or note is not None
            _print_set_aside(store.cell, note, yes=yes, as_json=options.json)
    if found and not yes:
        typer.echo("eventsched: nothing was changed; add --yes to set the segments aside", err=True)
    return 1 if found and not yes else 0


def _print_set_aside(cell: str, note: SetAsideNote | None, *, yes: bool, as_json: bool) -> None:
    from eventsched.cli.output import print_json, print_line
    from eventsched.formatting import plural

    if as_json:
        segments = msgspec.to_builtins(note) if note else None
        print_json({"cell": cell, "set_aside": yes and note is not None, "segments": segments})
    elif note is None:
        print_line(f"{cell}: the log has lost no segment, nothing to set aside")
    else:
        verb = "are set aside" if yes else "would be set aside"
        segments = plural(note.segments, "segment")
        entries = plural(note.entries, "entry", "entries")
        print_line(
            f"{cell}: {segments} with {entries}, {note.first} to {note.last}, which the log has "
            f"lost, {verb}"
        )


@app.command(name="abandon")
@command
async def abandon(
    options: Options, key: KeyId = "", yes: Yes = False, why: Why = "", by: By = ""
) -> int:
    """Abandon a lost archive, so that the cell no longer waits for it.

    Without --yes, the command prints what would be lost, changes nothing and ends with exit code 1.
    Entries that were trimmed from the log are lost with the archive. The event ArchiveAbandoned
    records this with the reason of --why, and a new archive may start. Stop the archivers first.
    The folder, if it is found again, can be used after `audit set-aside`.
    """
    from eventsched.archive.commands import ArchiveCommands
    from eventsched.projection.store import ProjectionStore

    act = act_of(why, by) if yes else None
    async with options.connect() as connection:
        stores = [
            ProjectionStore(store.transport, store.cell) for store in connection.stores.values()
        ]
        for commands, state in await _with_key([ArchiveCommands(each) for each in stores], key):
            if act is not None:
                await commands.abandon(key, why=act.why, by=act.by)
            _print_abandoned(commands.store.cell, state, yes=yes, as_json=options.json)
    if not yes:
        typer.echo("eventsched: nothing was changed; add --yes and --why to abandon it", err=True)
    return 0 if yes else 1


async def _with_key(
    cells: list[ArchiveCommands], key: str
) -> list[tuple[ArchiveCommands, ArchiveState]]:
    """Return the cells of this archive with their state. Raises InvalidMessage if there is none."""
    from eventsched.errors import InvalidMessage

    states = [(commands, await commands.read_state()) for commands in cells]
    matches = [(commands, state) for commands, state in states if key and state.fingerprint == key]
    if not matches:
        keys = ", ".join(
            f"{commands.store.cell} has {state.fingerprint or 'none'}" for commands, state in states
        )
        raise InvalidMessage.of("KEY", f"no archive has key {key!r}: {keys}", "name one of these")
    return matches


def _print_abandoned(cell: str, state: ArchiveState, *, yes: bool, as_json: bool) -> None:
    from eventsched.cli.output import print_json, print_line
    from eventsched.formatting import plural

    if as_json:
        fields = {"cell": cell, "key": state.fingerprint, "last_id": state.to}
        print_json(fields | {"entries_lost": state.trimmed, "abandoned": yes})
        return
    verb = "is abandoned" if yes else "would be abandoned"
    entries = plural(state.trimmed, "entry", "entries")
    print_line(
        f"{cell}: the archive up to {state.to} {verb}; {entries} of the log that only it has "
        f"{'are' if yes else 'would be'} lost"
    )


def _write(content: bytes, out: Path | None) -> None:
    from eventsched.errors import ArchiveError

    if out is None:
        typer.echo(content.decode(), nl=False)
        return
    try:
        out.write_bytes(content)
    except OSError as error:
        raise ArchiveError(f"cannot write {out}: {error.strerror}") from error
