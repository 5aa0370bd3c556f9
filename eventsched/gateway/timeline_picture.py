"""The timeline of a session: as a picture, and as the parts that a page draws.

Owns: how many events one timeline shows, hiding texts in it. Never does: draw.
Read next: reading.py, timeline/render.py, timeline/scene.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from anyio import to_thread
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from eventsched.gateway.access import share_of
from eventsched.gateway.cursor import format_cursor, parse_cursor
from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.reading import check_session
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.history.event_filter import make_filter
from eventsched.history.event_json import without_error_message
from eventsched.schema.events import Event
from eventsched.timeline.render import draw
from eventsched.timeline.scene import Scene, build_scene
from eventsched.tokens.claims import Claims

T = TypeVar("T")
PICTURE_EVENTS_MAX = 5_000
"""Events of one timeline, the oldest of the range; `since` or `after` moves the range on."""
PICTURE_BYTES_MAX = 16 * 2**20
"""Bytes of their stored form, after which a timeline ends early, too."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""The picture has its styles inside, and nothing that runs."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the timeline of a session, each with its events."""

    scene: Scene
    next: str
    """Pass it as `after` to read the events that follow; empty if these are all."""


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some events of a session."""

    events: list[Event]
    opened: Event | None
    """The event that opened the session, if it is not among them."""
    after: Mapping[str, str]
    is_last: bool


@in_turn
async def timeline(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The timeline of a session as SVG (`eventsched history --svg`)."""
    part = await _read(request, gateway, claims)
    picture = await _in_turn_of(gateway, claims, draw, part)
    headers = {
        "cache-control": "no-store",
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
    }
    return Response(picture, 200, headers, "image/svg+xml")


@in_turn
async def scene(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The parts of the timeline of a session, for a page that draws them."""
    part = await _read(request, gateway, claims)
    made = await _in_turn_of(gateway, claims, build_scene, part)
    return json_reply(Timeline(scene=made, next="" if part.is_last else format_cursor(part.after)))


async def _in_turn_of(
    gateway: Gateway,
    claims: Claims,
    make: Callable[[Sequence[Event], Event | None], T],
    part: _Part,
) -> T:
    """Draw in a thread, after the tenant's pictures before and at most one of each other tenant."""
    async with gateway.drawing.turn(share_of(claims)):
        return await to_thread.run_sync(make, part.events, part.opened, limiter=gateway.pictures)


async def _read(request: Request, gateway: Gateway, claims: Claims) -> _Part:
    query = request.query_params
    source = gateway.history_source()
    reader = gateway.reader(source)
    session = source.complete(request.path_params["id"])
    await check_session(source, reader, claims, session, "session", session)
    since = query.get("since", "")
    where = await make_filter(
        source, reader, session, node="", tenant="", types=[], since=since,
        until=query.get("until", ""),
    )  # fmt: skip
    after: Mapping[str, str] = parse_cursor("after", query.get("after", ""), source.cells)
    has_start = not since and not after
    events: list[Event] = []
    size, is_last = 0, False
    while not is_last and len(events) < PICTURE_EVENTS_MAX and size < PICTURE_BYTES_MAX:
        page = await reader.page(where, after, PICTURE_EVENTS_MAX - len(events))
        size += page.bytes
        events += [event for event in page.events if isinstance(event, Event)]
        after, is_last = page.after, page.is_last
    opened = None if has_start else await reader.opened(session)
    if not claims.texts:
        events = [replace(without_error_message(event), body=b"") for event in events]
    return _Part(events=events, opened=opened, after=after, is_last=is_last)
