"""The timeline of a session as a picture: `GET /v1/sessions/{id}/timeline`.

Owns: how many events one picture shows, hiding texts in it. Never does: draw.
Read next: reading.py, timeline/render.py.
"""

from __future__ import annotations

from anyio import to_thread
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.reading import check_session
from eventsched.gateway.service import Gateway
from eventsched.history.event_filter import make_filter
from eventsched.history.event_json import without_error_message
from eventsched.schema.events import Event
from eventsched.timeline.render import draw
from eventsched.tokens.claims import Claims

PICTURE_EVENTS_MAX = 5_000
"""Events of one picture, the oldest of the range; `since` moves the range on."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""The picture has its styles inside, and nothing that runs."""


@in_turn
async def timeline(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The timeline of a session as SVG (`eventsched history --svg`)."""
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
    events: list[Event] = []
    after: dict[str, str] = {}
    while len(events) < PICTURE_EVENTS_MAX:
        page = await reader.page(where, after, PICTURE_EVENTS_MAX - len(events))
        events += [event for event in page.events if isinstance(event, Event)]
        if page.is_last:
            break
        after = page.after
    opened = await reader.opened(session) if since else None
    if not claims.texts:
        events = [replace(without_error_message(event), body=b"") for event in events]
    picture = await to_thread.run_sync(draw, events, opened)
    headers = {
        "cache-control": "no-store",
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
    }
    return Response(picture, 200, headers, "image/svg+xml")
