"""`eventsched stream FILE.wav…`: send speech and print the outcomes.

Owns: the arguments. Read next: stream_sessions.py.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eventsched.cli.options import Keys, Options, command
from eventsched.errors import InvalidMessage

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE…",
        help="WAV files, one session each; - reads a WAV or raw PCM16 (mono, 16 kHz) from stdin.",
    ),
]
Source = Annotated[str, typer.Option("--source", "-s", help="Source language, or auto.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="Target language; repeatable, or a list such as es,fr."),
]
Realtime = Annotated[bool, typer.Option("--realtime", help="Send the audio in real time.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Tenant of the sessions.")]
Features = Annotated[
    list[str] | None, typer.Option("--feature", help="Feature that the jobs need; repeatable.")
]
Room = Annotated[str | None, typer.Option("--room", help="Room that the sessions join.")]
ListenLanguage = Annotated[
    str | None,
    typer.Option("--listen-language", help="Language of the results from other room members."),
]
Priority = Annotated[
    int, typer.Option("--priority", min=0, max=2, help="0 interactive, 1 normal, 2 background.")
]
Partials = Annotated[bool, typer.Option("--partials", help="Print partial results too.")]

FindEnds = Annotated[
    bool | None,
    typer.Option(
        "--endpointing/--no-endpointing",
        help="Leave silence out, and end utterances at the end of speech [on for stdin].",
    ),
]
Encrypt = Annotated[
    bool, typer.Option("--encrypt", help="Encrypt audio and texts with keys in the key store.")
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
    listen_language: ListenLanguage = None,
    priority: Priority = 1,
    partials: Partials = False,
    encrypt: Encrypt = False,
    endpointing: FindEnds = None,
    keys: Keys = None,
) -> int:
    """Send speech and print the outcomes as they arrive.

    The exit code is 1 if an outcome is failed or missing, or if stdin has no audio or no speech.
    Ctrl-C ends the audio and waits for the open outcomes; a second Ctrl-C ends the command at once.
    """
    from eventsched.cli.stream_sessions import Streams, read_sources
    from eventsched.client.client import connect

    if files.count("-") > 1:
        raise InvalidMessage.of("FILE", "- only once", "there is one standard input")
    if not target and room is None:
        raise InvalidMessage.of("--target", "a target language or a room is needed", "name one")
    sources = await read_sources(files)
    session_options = {
        "tenant": tenant,
        "source": source,
        "targets": [language for value in target or [] for language in value.split(",")],
        "features": feature or [],
        "room": room,
        "listen_language": listen_language,
        "priority": priority,
        "encrypt": encrypt,
    }
    async with connect(options.url, data=options.data, keys=keys) as es:
        streams = Streams(
            es,
            session_options,
            realtime=realtime,
            partials=partials,
            endpointing=endpointing,
            as_json=options.json,
        )
        return await streams.run(sources)
