"""`eventsched audit`: has anybody touched the archive?

`verify`, `checkpoint`, `prove`, `check-proof`: none of these needs a server. `abandon` does: it
tells the cells that their archive is lost.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from eventsched.cli.options import Options, command

if TYPE_CHECKING:
    from eventsched.archive.commands import ArchiveCommands, ArchiveState

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Check an archive's folder.")

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The archive's folder.")]
Archive = Annotated[Path, typer.Option("--archive", metavar="DIR", help="The archive's folder.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Public key from elsewhere [DIR/archive.pub]."),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="FILE", help="Kept from an earlier day."),
]
Snapshots = Annotated[
    bool, typer.Option("--snapshots", help="Also fold every snapshot anew (slow).")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there [stdout].")]
Event = Annotated[str, typer.Argument(metavar="EVENT", help="Its id, such as 1700000000000-0.")]
Cell = Annotated[str | None, typer.Option("--cell", help="When several cells have the id.")]
ProofFile = Annotated[Path, typer.Argument(metavar="FILE", help="What `audit prove` printed.")]
Lost = Annotated[str, typer.Argument(metavar="[KEY]", help="Its key, as the archiver names it.")]
Yes = Annotated[bool, typer.Option("--yes", help="It is lost, with all that only it had.")]
SHOWN_MAX = 20
"""Problems that people are shown; --json has all."""


@app.command()
@command
async def verify(
    options: Options,
    dir_: Dir,
    checkpoint: CheckpointFile = None,
    key: KeyFile = None,
    snapshots: Snapshots = False,
) -> int:
    """Find every edit, deletion, insertion and reordering; exit code 1 when there is any.

    With a checkpoint also: segments cut off at the end, and history sealed anew.
    """
    from eventsched.archive.verifier import Verifier
    from eventsched.cli.output import print_json, progress
    from eventsched.errors import ArchiveError
    from eventsched.projection.protocol import indexing_set, load_sets

    core = indexing_set(load_sets())
    verifier = Verifier(
        dir_, checkpoint=checkpoint, key=key, projection_set=core if snapshots else None
    )
    total = 0
    for name in verifier.folder.cells():
        try:
            total += sum(one.events for one in verifier.folder.cell(name).records())
        except ArchiveError:
            continue  # told by the verifier, which goes on with other cells
    with nullcontext() if options.json else progress("verifying", total) as moved:
        if moved is not None:
            verifier.on_progress(moved)
        report = verifier.run()
    if options.json:
        print_json({"clean": not report.problems} | msgspec.to_builtins(report))
    else:
        _show(report)
    return 1 if report.problems else 0


def _show(report: Any) -> None:
    from eventsched.cli.output import print_line
    from eventsched.formatting import plural

    for problem in report.problems[:SHOWN_MAX]:
        print_line(f"TOUCHED  {problem}")
    if len(report.problems) > SHOWN_MAX:
        print_line(f"and {len(report.problems) - SHOWN_MAX:,} more (--json has all)")
    parts = [
        plural(report.events, "event"),
        plural(report.segments, "segment"),
        plural(report.cells, "cell"),
    ]
    if report.checkpoints:
        parts.append(plural(report.checkpoints, "checkpoint head"))
    verdict = plural(len(report.problems), "problem") if report.problems else "untouched"
    print_line(f"{verdict}: {', '.join(parts)}, key {report.key}")


@app.command()
@command
async def checkpoint(options: Options, dir_: Dir, out: Out = None) -> None:
    """Export the signed state of now, to be kept where the archive is not.

    With it, `audit verify` also sees what was cut off since, or sealed anew.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.archive.verifier import checkpoint_of

    _write(checkpoint_of(ArchiveFolder.open(dir_)), out)


@app.command()
@command
async def prove(
    options: Options, event: Event, archive: Archive, cell: Cell = None, out: Out = None
) -> None:
    """Print a proof (JSON, below 2 KB) that the archive holds this event as it was sealed."""
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.archive.manifest import encode
    from eventsched.archive.verifier import prove as prove_event

    _write(encode(prove_event(ArchiveFolder.open(archive), event, cell)) + b"\n", out)


@app.command(name="check-proof")
@command
async def check_proof(options: Options, file: ProofFile, key: KeyFile = None) -> None:
    """Check a proof by itself; exit code 1 and one line when it does not hold.

    Give the key that you trust: without it, the proof says by which key it holds.
    """
    from eventsched.archive.signing import read_public
    from eventsched.archive.verifier import check_proof as check
    from eventsched.cli.output import print_json, print_line
    from eventsched.errors import ArchiveError

    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArchiveError(f"cannot read {file}: {error.strerror}") from error
    shown = check(data, read_public(key) if key else None, str(file))
    proof, kind = shown.proof, shown.entry[1][1].decode("ascii", "replace") if shown.entry else ""
    if options.json:
        told = {"holds": True, "id": proof.id, "cell": proof.head.cell, "key": shown.key}
        print_json(told | {"type": kind, "segments": proof.head.segments})
        return
    what = kind or f"leaf {proof.leaf} (its bytes are not in the proof)"
    print_line(
        f"holds: {what} {proof.id} of cell {proof.head.cell} is entry {proof.index + 1:,} of "
        f"segment {proof.segment}, signed by key {shown.key} at {proof.head.events:,} events"
    )


@app.command(name="abandon")
@command
async def abandon(options: Options, key: Lost = "", yes: Yes = False) -> int:
    """Say that an archive is lost for good, so that nothing waits for it any more.

    Without --yes it says what would be lost, changes nothing and ends with exit code 1. What was
    trimmed from the log stays gone; ArchiveAbandoned puts that on record, and another archive may
    begin. Stop the archivers first.
    """
    from eventsched.archive.commands import ArchiveCommands
    from eventsched.projection.store import ProjectionStore

    async with options.connect() as connection:
        views = [
            ProjectionStore(store.transport, store.cell) for store in connection.stores.values()
        ]
        for calls, state in await _with_key([ArchiveCommands(one) for one in views], key):
            if yes:
                await calls.abandon(key)
            _print_abandoned(calls.store.cell, state, yes=yes, as_json=options.json)
    if not yes:
        typer.echo("eventsched: nothing is changed; --yes gives it up", err=True)
    return 0 if yes else 1


async def _with_key(
    cells: list[ArchiveCommands], key: str
) -> list[tuple[ArchiveCommands, ArchiveState]]:
    """The cells that this archive is of. Raises InvalidMessage naming those that there are."""
    from eventsched.errors import InvalidMessage

    found = [(calls, await calls.read_state()) for calls in cells]
    named = [(calls, state) for calls, state in found if key and state.fingerprint == key]
    if not named:
        have = ", ".join(
            f"{calls.store.cell} has {state.fingerprint or 'none'}" for calls, state in found
        )
        raise InvalidMessage.of("KEY", f"{key!r} is no archive's: {have}", "name one of these")
    return named


def _print_abandoned(cell: str, state: ArchiveState, *, yes: bool, as_json: bool) -> None:
    from eventsched.cli.output import print_json, print_line
    from eventsched.formatting import plural

    if as_json:
        told = {
            "cell": cell,
            "key": state.fingerprint,
            "to": state.to,
            "gone": state.trimmed,
            "abandoned": yes,
        }
        print_json(told)
        return
    verb = "is abandoned" if yes else "would be abandoned"
    gone = plural(state.trimmed, "entry", "entries")
    print_line(f"{cell}: the archive up to {state.to} {verb}; the log has lost {gone} to it")


def _write(content: bytes, out: Path | None) -> None:
    from eventsched.errors import ArchiveError

    if out is None:
        typer.echo(content.decode(), nl=False)
        return
    try:
        out.write_bytes(content)
    except OSError as error:
        raise ArchiveError(f"cannot write {out}: {error.strerror}") from error
