"""`eventsched history`: the events of a session, a job, a node, or all events.

Owns: the options of the command, the order of reading and following.
Never does: reads.
Read next: history/event_filter.py, history/reader.py, timeline.py (lines), timeline/render.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventsched.cli.options import Archive, Keys, Options, command
from eventsched.errors import EventschedError, InvalidMessage

if TYPE_CHECKING:
    from eventsched.history.reader import EventFilter, Reader
    from eventsched.projection.fold import FailedEvent
    from eventsched.schema.events import Event

    Show = Callable[[Sequence[Event | FailedEvent]], None]

What = Annotated[
    str,
    typer.Argument(
        metavar="[ID]",
        help="Session <cell>.<name>, or job: its key or SESSION:UTTERANCE:TARGET; else all events.",
    ),
]
NodeId = Annotated[str, typer.Option("--node", metavar="ID", help="Only events of this node.")]
Tenant = Annotated[
    str, typer.Option("--tenant", metavar="NAME", help="Only events of this tenant.")
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type", metavar="TYPE", help="Only events of this type, such as JobFailed; repeatable."
    ),
]
Since = Annotated[
    str,
    typer.Option("--since", metavar="WHEN", help="Start at this entry id or ISO time."),
]
Until = Annotated[
    str, typer.Option("--until", metavar="WHEN", help="End with this entry id or ISO time.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Wait for new events until Ctrl-C.")]
Svg = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", help="Draw one session into this file.")
]


class WriteFailed(EventschedError):
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
    """Show the events of a session, a job, a node, or all events, oldest first.

    AFTER is the time since the cause of the event, or since the last event of its job. --json
    prints JSON Lines, --svg draws one session. The id of a session may be shortened to a beginning
    that no other session has. Encrypted texts are shown if the key store has
    their keys.
    """
    from eventsched.cli.output import json_line, write_bytes, write_text
    from eventsched.cli.timeline import Timeline
    from eventsched.encryption.decrypt import EventDecryptor
    from eventsched.encryption.keystore import find_key_store
    from eventsched.history.event_filter import make_filter
    from eventsched.history.event_json import event_json
    from eventsched.history.reader import Reader
    from eventsched.history.short_ids import expand

    async with options.history_source(archive) as source:
        what = await expand(source, what)
        key_store = find_key_store(keys)
        reader = Reader(source, EventDecryptor(key_store) if key_store else None)
        wanted = await make_filter(
            source,
            reader,
            what,
            node=node,
            tenant=tenant,
            types=types or [],
            since=since,
            until=until,
            prefix="--",
        )
        if svg is not None:
            await _draw(reader, wanted, svg)
            return
        title = wanted.job or wanted.session or wanted.node
        timeline = Timeline(title, shows_subject=not wanted.index)

        def show(events: Sequence[Event | FailedEvent]) -> None:
            if options.json:
                write_bytes(b"".join([json_line(event_json(event)) for event in events]))
            else:
                write_text("".join(map(timeline.text_of, events)))

        is_live = source.connection is not None
        await _show_all(reader, wanted, show, follow=follow, is_live=is_live)


async def _show_all(
    reader: Reader, wanted: EventFilter, show: Show, *, follow: bool, is_live: bool
) -> None:
    """Show the stored events, then new ones if `follow` is set. Raises InvalidMessage."""
    from eventsched.cli.output import flush

    if not follow:
        async for batch in reader.batches(wanted):
            show(batch)
        return
    if not is_live:
        raise InvalidMessage.of("--follow", "an archive does not grow", "name a server with --url")
    if wanted.until is not None:
        raise InvalidMessage.of("--until", "not with --follow", "leave one of them out")
    ends = await reader.ends(wanted)
    async for batch in reader.batches(wanted, ends):
        show(batch)
    flush()

    def show_now(event: Event | FailedEvent) -> None:
        show([event])
        flush()

    await reader.follow(wanted, ends, show_now)


async def _draw(reader: Reader, wanted: EventFilter, path: Path) -> None:
    import anyio

    from eventsched.schema.events import Event
    from eventsched.timeline.render import draw

    if not wanted.session:
        raise InvalidMessage.of("--svg", "draws one session", "give its id")
    history_ = [event async for event in reader.history(wanted)]
    events = [event for event in history_ if isinstance(event, Event)]
    opened = await reader.opened(wanted.session) if wanted.since else None
    picture = draw(events, opened)
    try:
        await anyio.Path(path).write_text(picture, encoding="utf-8")
    except OSError as error:
        raise WriteFailed(f"cannot write {path}: {error.strerror}") from error
