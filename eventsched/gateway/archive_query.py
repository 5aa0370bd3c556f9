"""SQL over the archive that a gateway reads: `POST /v1/archive/query`.

Owns: the body of the request and its limits.
Never does: run the statement; a process of its own does, whose memory is limited.
Read next: routes.py, cli/query.py, archive/sql.py, docs/query.md.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventsched.errors import InvalidMessage
from eventsched.gateway.archive_audit import folder_of, without_path
from eventsched.gateway.child_commands import CommandFailed, running_command
from eventsched.gateway.frames import FrameDecoder
from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.replies import json_reply
from eventsched.gateway.request_body import read_body
from eventsched.gateway.service import Gateway
from eventsched.gateway.session_report import check_texts
from eventsched.tokens.claims import Claims

SECONDS_MAX = 20
MEMORY_MB = 512
ROWS_MAX = 1_000
BYTES_MAX = 8 << 20
FROM_INPUT = "-"
"""Has the command read the statement from its input: arguments are for all users to see."""


class QueryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement, and the events that it reads."""

    sql: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    """One SELECT over the views events, jobs and sessions."""
    session: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Read the events of this session only."""
    since: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Read from this entry id or ISO time on."""
    until: Annotated[str, msgspec.Meta(max_length=64)] = ""


class QueryReply(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a statement."""

    rows: list[dict[str, Any]]
    """A value for each column, in their order; times are UTC."""


_BODY: FrameDecoder[QueryRequest] = FrameDecoder(QueryRequest, page="docs/gateway.md")


@in_turn
async def query(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Query the archive by SQL (`eventsched query`).

    A result has at most 1,000 rows and 8 MiB, and a statement 20 s and 512 MB of memory.
    """
    check_texts(claims)
    folder = folder_of(gateway)
    body = _BODY.decode((await read_body(request)).decode("utf-8", "replace"))
    for name in ("sql", "session", "since", "until"):
        if "\0" in getattr(body, name):
            raise InvalidMessage.of(name, "no NUL character", "leave it out")
    options = [
        f"--archive={folder.path}", f"--timeout={SECONDS_MAX}", f"--memory-mb={MEMORY_MB}",
        f"--rows={ROWS_MAX}", f"--session={body.session}", f"--since={body.since}",
        f"--until={body.until}",
    ]  # fmt: skip
    try:
        words, sql = ["query", "--json", *options, FROM_INPUT], body.sql.encode()
        async with running_command(words, text=sql) as running:
            rows = [msgspec.json.decode(line) async for line in running.lines(BYTES_MAX)]
            await running.end(0)
    except CommandFailed as error:
        message = without_path(str(error), folder)
        raise InvalidMessage.of("sql", message, "change the statement") from None
    return json_reply(QueryReply(rows=rows))
