"""The archive that a gateway reads: its segments, its verification, its checkpoint, proofs.

Owns: the parameters of these routes, the stream of a verification.
Never does: hash; a verification is a process of its own, since it takes a core for minutes.
Read next: routes.py, archive/verifier.py, archive/audit_text.py, docs/audit.md.
"""

from __future__ import annotations

import re
from datetime import datetime

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventsched.archive import threads
from eventsched.archive.audit_text import (
    KEYS,
    MEANINGS,
    affected_text,
    reach_text,
    set_aside_text,
    verdict_text,
)
from eventsched.archive.layout import PUBLIC, ArchiveFolder
from eventsched.archive.signing import public_line
from eventsched.archive.verifier import AuditReport
from eventsched.errors import InvalidMessage, NotFound
from eventsched.gateway.child_commands import CommandFailed, running_command
from eventsched.gateway.connections import end_with_client
from eventsched.gateway.read_limit import TooManyReads, in_turn
from eventsched.gateway.reading import count_of
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.gateway.session_report import check_texts
from eventsched.schema.ids import is_id, parse_id
from eventsched.tokens.claims import Claims

_SEGMENT_NUMBER = re.compile(r"[0-9]{1,12}")
SEGMENTS_MAX = 500
OUTPUT_BYTES_MAX = 64 << 20
"""Bytes that a verification may print: a line for each segment, and its problems."""


class SegmentItem(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of the archive."""

    n: int
    first: str
    """Id of its first event."""
    last: str
    events: int
    utterances: int
    """Utterances whose audio it has."""
    bytes: int
    root: str
    """Merkle root of its events."""


class SegmentList(msgspec.Struct, frozen=True, kw_only=True):
    """Some segments of a cell, newest first."""

    segments: list[SegmentItem]
    next: str
    """Pass it as `after` to read on; empty if these are all."""


class ProblemText(msgspec.Struct, frozen=True, kw_only=True):
    """A difference from what was sealed."""

    where: str
    what: str
    means: str
    """What it means, for a reader who is not a programmer."""
    affects: str
    """The events that it concerns; empty if none, or if they are not known."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a verification, in words: the event `report` of the stream."""

    is_clean: bool
    is_key_checked: bool
    """Whether a trusted key was named. A gateway has none but the key in the archive."""
    verdict: str
    key: str
    """What the check of the key is worth."""
    zone: str
    """The zone of the times in these texts, which is that of the gateway."""
    reach: list[str]
    """By cell, up to which time the events are untouched, and by what."""
    set_aside: list[str]
    problems: list[ProblemText]


def folder_of(gateway: Gateway) -> ArchiveFolder:
    """Return the archive that the gateway reads. Raises NotFound."""
    if gateway.archive is None:
        raise NotFound("this gateway reads no archive: start it with --archive")
    return gateway.archive


def without_path(message: str, folder: ArchiveFolder) -> str:
    """Return what a command says of an archive, without the path of its folder."""
    return message.replace(str(folder.path), "the archive")


@in_turn
async def segments(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Segments of a cell of the archive, the newest first."""
    folder, cell = folder_of(gateway), request.path_params["cell"]
    after = request.query_params.get("after", "")
    if after and not _SEGMENT_NUMBER.fullmatch(after):
        raise InvalidMessage.of("after", "`next` of the page before", "leave it out")
    count = count_of(request, SEGMENTS_MAX)
    return json_reply(await threads.in_thread(lambda: _segments(folder, cell, after, count)))


def _segments(folder: ArchiveFolder, cell: str, after: str, count: int) -> SegmentList:
    if cell not in folder.cells():
        raise NotFound(f"the archive has no cell {cell}")
    records = folder.cell(cell).signed_records()
    end = min(int(after), len(records)) if after else len(records)
    start = max(0, end - count)
    items = [
        SegmentItem(
            n=each.n, first=each.first, last=each.last, events=each.events,
            utterances=each.utterances, bytes=sum(file.bytes for file in each.files),
            root=each.root,
        )
        for each in reversed(records[start:end])
    ]  # fmt: skip
    return SegmentList(segments=items, next=str(start) if start else "")


@in_turn
async def checkpoint(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The signed heads of the archive, to store elsewhere (`eventsched audit checkpoint`)."""
    from eventsched.archive.checkpoints import checkpoint_of

    folder = folder_of(gateway)
    content = await threads.in_thread(lambda: checkpoint_of(folder))
    return _file(content, "checkpoint.json")


@in_turn
async def public_key(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The public key in the archive, for `eventsched audit`; compare its fingerprint elsewhere."""
    return _file(public_line(folder_of(gateway).public), PUBLIC, "text/plain")


@in_turn
async def proof(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A proof that the archive has an event (`eventsched audit prove`)."""
    from eventsched.archive.manifest import encode
    from eventsched.archive.proof import prove

    check_texts(claims)
    folder, event = folder_of(gateway), request.query_params.get("event", "")
    if not is_id(event):
        raise InvalidMessage.of("event", "the id of an event", "take it from the history")
    cell = request.query_params.get("cell", "") or None
    if cell and cell not in await threads.in_thread(folder.cells):
        raise NotFound(f"the archive has no cell {cell!r:.80}")
    try:
        content = await threads.in_thread(lambda: encode(prove(folder, event, cell)) + b"\n")
    except NotFound:  # its text names a folder of this machine
        raise NotFound(await threads.in_thread(lambda: _absence(folder, event, cell))) from None
    return _file(content, f"proof-{event}.json")


def _absence(folder: ArchiveFolder, event: str, cell: str | None) -> str:
    """Return why there is no proof: the event may be newer than the archive of a cell."""
    for name in [cell] if cell else folder.cells():
        records = folder.cell(name).signed_records()
        if not records:
            return f"event {event} is not archived yet: the archive of cell {name} has no segment"
        if parse_id(records[-1].last) < parse_id(event):
            last = records[-1].last
            return (
                f"event {event} is not archived yet: the archive of cell {name} reaches to {last}"
            )
    return f"the archive has no event {event}"


def _file(content: bytes, name: str, media_type: str = "application/json") -> Response:
    headers = {
        "cache-control": "no-store",
        "content-disposition": f'attachment; filename="{name}"',
        "x-content-type-options": "nosniff",
    }
    return Response(content, 200, headers, media_type)


async def verify(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Verify the archive (`eventsched audit verify`), as server-sent events.

    Events `progress` have the numbers of verified and of all events; the last event is `report`, or
    `failed`. A gateway runs one verification at a time.
    """
    folder = folder_of(gateway)
    if gateway.is_verifying:
        raise TooManyReads("a verification runs at this gateway: wait until it ends")
    return _VerificationStream(gateway, folder)


class _VerificationStream(Response):
    """The stream of one verification. It ends with the process, the client or the gateway."""

    def __init__(self, gateway: Gateway, folder: ArchiveFolder) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._gateway = gateway
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._gateway.is_verifying = True
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(end_with_client, receive, tasks.cancel_scope)
                tasks.start_soon(self._end_with_gateway, tasks.cancel_scope)
                try:
                    await self._run()
                except CommandFailed as error:
                    message = without_path(str(error), self._folder)
                    await self._write("failed", msgspec.json.encode({"message": message}))
                tasks.cancel_scope.cancel()
        finally:
            self._gateway.is_verifying = False
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end_with_gateway(self, scope: anyio.CancelScope) -> None:
        await self._gateway.stopping.wait()
        scope.cancel()

    async def _run(self) -> None:
        """Send what the command prints: lines of progress, then the report."""
        last = b""
        command = ["audit", "verify", "--json", "--progress", "--", str(self._folder.path)]
        async with running_command(command) as running:
            async for line in running.lines(OUTPUT_BYTES_MAX):
                if last:
                    await self._write("progress", last)
                last = line
            await running.end(0, 1)
        if not last:
            raise CommandFailed("the verification printed nothing")
        report = msgspec.convert(msgspec.json.decode(last), AuditReport)
        await self._write("report", msgspec.json.encode(in_words(report)))

    async def _write(self, name: str, data: bytes) -> None:
        body = b"event: %b\ndata: %b\n\n" % (name.encode(), data)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


def in_words(report: AuditReport) -> Verification:
    """Return the report as sentences."""
    return Verification(
        is_clean=not report.problems,
        is_key_checked=report.is_key_checked,
        zone=datetime.now().astimezone().tzname() or "",
        verdict=verdict_text(report),
        key=KEYS[report.key_from],
        reach=[f"{each.cell}: {reach_text(each)}" for each in report.reach],
        set_aside=[set_aside_text(each) for each in report.set_aside],
        problems=[
            ProblemText(
                where=each.where,
                what=each.what,
                means=MEANINGS[each.effect],
                affects=affected_text(each.affected) if each.affected is not None else "",
            )
            for each in report.problems
        ],
    )
