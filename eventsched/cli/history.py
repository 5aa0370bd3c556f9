"""`eventsched history`: what happened, to a session, a job, a node, or at all."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from eventsched.cli.options import Archive, Keys, Options, command
from eventsched.errors import EventschedError, InvalidMessage

if TYPE_CHECKING:
    from eventsched.history.reader import Reader, Wanted
    from eventsched.history.source import HistorySource
    from eventsched.projection.fold import FailedEvent
    from eventsched.schema.events import Event

    Tell = Callable[[Event | FailedEvent], None]

What = Annotated[
    str,
    typer.Argument(
        metavar="[ID]",
        help="A session <cell>.<name>, or a job: its key, or SESSION:UTTERANCE:TARGET. "
        "Without: everything.",
    ),
]
NodeId = Annotated[str, typer.Option("--node", metavar="ID", help="Only events of this node.")]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Only of this tenant.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Only of this type, such as JobFailed; repeat it."),
]
Since = Annotated[
    str,
    typer.Option("--since", metavar="WHEN", help="From this entry's id or ISO time on."),
]
Until = Annotated[
    str, typer.Option("--until", metavar="WHEN", help="Up to this entry or time, inclusive.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; Ctrl-C ends.")]
Svg = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", help="Draw one session into this file.")
]


class NotWritten(EventschedError):
    """Raised when a file cannot be written."""


@command
async def history(
    options: Options,
    what: What = "",
    node: NodeId = "",
    tenant: Tenant = "",
    types: Types = None,
    since: Since = "",
    until: Until = "",
    follow: Follow = False,
    svg: Svg = None,
    archive: Archive = None,
    keys: Keys = None,
) -> None:
    """Show what happened, oldest first: to a session, a job, a node, or at all.

    AFTER says how long after its cause, or after its job's last event, each came. With --json:
    JSON Lines, an event each. With --svg: a picture of one session. Encrypted texts are shown to
    who has their keys.
    """
    from eventsched.cli.event_text import as_json
    from eventsched.cli.output import print_json
    from eventsched.cli.timeline import Timeline
    from eventsched.encryption.decrypt import EventDecryptor
    from eventsched.encryption.keystore import find_key_store
    from eventsched.history.reader import Reader

    async with options.past(archive) as past:
        key_store = find_key_store(keys)
        reader = Reader(past, EventDecryptor(key_store) if key_store else None)
        wanted = await _wanted(past, reader, what, node, tenant, types or [], since, until)
        if svg is not None:
            await _draw(reader, wanted, svg)
            return
        title = wanted.job or wanted.session or wanted.node
        timeline = Timeline(title, names_whose=not wanted.index)
        tell: Tell = timeline.show
        if options.json:
            tell = lambda one: print_json(as_json(one))  # noqa: E731  one word for both
        await _tell_all(reader, wanted, tell, follow=follow, is_live=past.connection is not None)


async def _tell_all(
    reader: Reader, wanted: Wanted, tell: Tell, *, follow: bool, is_live: bool
) -> None:
    if not follow:
        async for one in reader.history(wanted):
            tell(one)
        return
    if not is_live:
        raise InvalidMessage.of("--follow", "an archive does not grow", "name a server with --url")
    if wanted.until is not None:
        raise InvalidMessage.of("--until", "not with --follow", "leave one of them out")
    ends = await reader.ends(wanted)
    async for one in reader.history(wanted, ends):
        tell(one)
    await reader.follow(wanted, ends, tell)


async def _wanted(
    past: HistorySource,
    reader: Reader,
    what: str,
    node: str,
    tenant: str,
    types: list[str],
    since: str,
    until: str,
) -> Wanted:
    from eventsched.history.position import parse_position
    from eventsched.history.reader import Wanted

    is_job = ":" in what
    return Wanted(
        session=past.complete(what) if what and not is_job else "",
        job=await reader.job_key(what) if is_job else "",
        node=past.complete(node) if node else "",
        tenant=tenant,
        types=frozenset(_known(one) for one in types),
        since=parse_position(since, "--since") if since else None,
        until=parse_position(until, "--until") if until else None,
    )


def _known(name: str) -> str:
    """The type's name. Raises InvalidMessage naming what is near."""
    from eventsched.schema.events import AnyData

    names = [kind.__name__ for kind in get_args(AnyData)]
    if name in names:
        return name
    near = get_close_matches(name, names, 1) or ["UtteranceFinalized"]
    raise InvalidMessage.of("--type", f"{name!r} is none", f"did you mean {near[0]}?")


async def _draw(reader: Reader, wanted: Wanted, path: Path) -> None:
    import anyio

    from eventsched.schema.events import Event
    from eventsched.timeline.render import draw

    if not wanted.session:
        raise InvalidMessage.of("--svg", "draws one session", "give its id")
    found = [one async for one in reader.history(wanted)]
    picture = draw([one for one in found if isinstance(one, Event)])
    try:
        await anyio.Path(path).write_text(picture, encoding="utf-8")
    except OSError as error:
        raise NotWritten(f"cannot write {path}: {error.strerror}") from error
