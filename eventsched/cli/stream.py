"""`eventsched stream FILE.wav…`: speech in, what comes of it out."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsched.cli.options import Keys, Options, command
from eventsched.errors import InvalidMessage

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE…",
        help="WAV files, a session each; - is a WAV or raw PCM16, mono, 16 kHz, on stdin.",
    ),
]
Source = Annotated[str, typer.Option("--source", "-s", help="Language spoken, or auto.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="Language wanted; may be repeated, or es,fr."),
]
Realtime = Annotated[bool, typer.Option("--realtime", help="As fast as it was spoken.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose session it is.")]
Features = Annotated[
    list[str] | None, typer.Option("--feature", help="Service that the jobs need; repeatable.")
]
Room = Annotated[str | None, typer.Option("--room", help="Sessions of one room hear each other.")]
Hears = Annotated[
    str | None,
    typer.Option("--listen-language", help="In a room: the language to hear the others in."),
]
Priority = Annotated[
    int, typer.Option("--priority", min=0, max=2, help="0 interactive, 1 normal, 2 background.")
]
Partials = Annotated[bool, typer.Option("--partials", help="Transcripts in the making, too.")]

Encrypt = Annotated[
    bool, typer.Option("--encrypt", help="Audio and texts, with keys in the key store.")
]


@command
async def stream(
    options: Options,
    files: Files,
    source: Source = "en",
    target: Targets = None,
    realtime: Realtime = False,
    tenant: Tenant = "default",
    feature: Features = None,
    room: Room = None,
    listen_language: Hears = None,
    priority: Priority = 1,
    partials: Partials = False,
    encrypt: Encrypt = False,
    keys: Keys = None,
) -> int:
    """Stream speech and show the results as they come; exit code 1 if any failed or is missing.

    It is 1 as well when no audio comes on stdin. Ctrl-C ends the audio and still waits for its
    results; a second one stops at once.
    """
    from eventsched.cli.stream_sessions import Streams, read_sources
    from eventsched.client.client import connect

    if files.count("-") > 1:
        raise InvalidMessage.of("FILE", "- only once", "there is one standard input")
    if not target and room is None:
        raise InvalidMessage.of("--target", "none, so nobody would hear anything", "name one")
    sources = await read_sources(files)
    asked = {
        "tenant": tenant,
        "source": source,
        "targets": [one for given in target or [] for one in given.split(",")],
        "features": feature or [],
        "room": room,
        "listen_language": listen_language,
        "priority": priority,
        "encrypt": encrypt,
    }
    async with connect(options.url, data=options.data, keys=keys) as es:
        streams = Streams(es, asked, realtime=realtime, partials=partials, as_json=options.json)
        return await streams.run(sources)
