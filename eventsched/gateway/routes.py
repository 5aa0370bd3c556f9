"""The routes of a gateway and who may use them: the access table.

Owns: one row for each route. A route exists only through its row, so none is without access rules;
`tests/gateway/test_access.py` tries every role on every row.
Never does: serve. Read next: access.py, app.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from eventsched.audit.dead_letters import LetterOutcome
from eventsched.audit.explain import JobExplanation
from eventsched.gateway import (
    archive_audit,
    archive_query,
    console,
    event_stream,
    health,
    listing,
    login,
    metrics,
    node_socket,
    openapi,
    operations,
    producer_socket,
    projections,
    reading,
    session_report,
    timeline_picture,
    utterance_audio,
)
from eventsched.gateway.access import (
    ANY,
    AUDIT,
    OPERATE,
    PRODUCE,
    PUBLIC,
    READ,
    READ_SYSTEM,
    SCRAPE,
    SERVE,
    Access,
)
from eventsched.gateway.operations import (
    ActRequest,
    DrainReply,
    DrainRequest,
    PortionReply,
    PortionRequest,
    RebuildRequest,
    RetryRequest,
)
from eventsched.gateway.rebuilds import RebuildReply
from eventsched.history.index_lists import ListItem
from eventsched.history.page import Page
from eventsched.history.reader import State
from eventsched.history.status import SystemStatus

Method: TypeAlias = Literal["GET", "POST", "WS"]
Handler: TypeAlias = Callable[..., Awaitable[Any]]


class Route(NamedTuple):
    """One row of the access table."""

    method: Method
    path: str
    handler: Handler
    access: Access | None
    """None for a route that needs no token."""
    reply: Any = None
    """Type of the JSON of the reply; none for a socket and for a reply of other content."""
    parameters: tuple[str, ...] = ()
    """Names of the parameters in the query."""
    body: Any = None
    """Type of the JSON of the request; none without a body."""
    content: str = "application/json"
    """Media type of the reply."""


AT = ("at",)
ITEMS = Page[ListItem]
PAGED = ("cell", "after", "count")
ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", health.healthz, PUBLIC, health.Health),
    Route("GET", "/readyz", health.readyz, PUBLIC, health.Ready),
    Route("GET", "/metrics", metrics.metrics, SCRAPE, content="text/plain"),
    Route("GET", "/console/{path:path}", console.console, PUBLIC, content="text/html"),
    Route("GET", "/v1/login", login.login, PUBLIC, login.Login, ("code",)),
    Route("POST", "/v1/logout", login.logout, PUBLIC, health.Health),
    Route("GET", "/v1/who", login.who, ANY, login.Login),
    Route("GET", "/v1/openapi.json", openapi.openapi, ANY, dict[str, Any]),
    Route("WS", "/v1/sessions", producer_socket.sessions, PRODUCE),
    Route("WS", "/v1/nodes", node_socket.nodes, SERVE),
    Route("GET", "/v1/status", reading.status, READ_SYSTEM, SystemStatus, ("nodes",)),
    Route(
        "GET",
        "/v1/consumer-groups",
        reading.consumer_groups,
        READ_SYSTEM,
        list[reading.CellGroups],
    ),
    Route(
        "GET",
        "/v1/dead-letters",
        reading.dead_letters,
        READ_SYSTEM,
        reading.DeadLetterList,
        (*PAGED, "match"),
    ),
    Route(
        "POST",
        "/v1/dead-letters/{cell}/retry",
        operations.retry_portion,
        OPERATE,
        PortionReply,
        (),
        PortionRequest,
    ),
    Route(
        "POST",
        "/v1/dead-letters/{cell}/discard",
        operations.discard_portion,
        OPERATE,
        PortionReply,
        (),
        PortionRequest,
    ),
    Route(
        "POST",
        "/v1/dead-letters/{cell}/{id}/retry",
        operations.retry,
        OPERATE,
        LetterOutcome,
        (),
        RetryRequest,
    ),
    Route(
        "POST",
        "/v1/dead-letters/{cell}/{id}/discard",
        operations.discard,
        OPERATE,
        LetterOutcome,
        (),
        ActRequest,
    ),
    Route("POST", "/v1/nodes/{id}/drain", operations.drain, OPERATE, DrainReply, (), DrainRequest),
    Route("POST", "/v1/rebuild", operations.rebuild, OPERATE, RebuildReply, (), RebuildRequest),
    Route(
        "GET", "/v1/projections", projections.projections, READ_SYSTEM, list[projections.ReadModel]
    ),
    Route("GET", "/v1/archive", reading.archive, AUDIT, list[reading.CellArchive]),
    Route(
        "GET",
        "/v1/archive/{cell}/segments",
        archive_audit.segments,
        AUDIT,
        archive_audit.SegmentList,
        ("after", "count"),
    ),
    Route("GET", "/v1/archive/checkpoint", archive_audit.checkpoint, AUDIT),
    Route("GET", "/v1/archive/public-key", archive_audit.public_key, AUDIT, content="text/plain"),
    Route("GET", "/v1/archive/proof", archive_audit.proof, AUDIT, None, ("event", "cell")),
    Route("GET", "/v1/archive/verify", archive_audit.verify, AUDIT, content="text/event-stream"),
    Route(
        "POST",
        "/v1/archive/query",
        archive_query.query,
        AUDIT,
        archive_query.QueryReply,
        (),
        archive_query.QueryRequest,
    ),
    Route("GET", "/v1/state/{kind}/{id:path}", reading.state, READ, State, AT),
    Route("GET", "/v1/sessions", listing.sessions, READ, ITEMS, (*PAGED, "tenant", "status")),
    Route("GET", "/v1/jobs", listing.jobs, READ, ITEMS, (*PAGED, "tenant", "session")),
    Route("GET", "/v1/groups", listing.groups, READ, ITEMS, (*PAGED, "tenant")),
    Route("GET", "/v1/nodes", listing.nodes, READ_SYSTEM, ITEMS, (*PAGED, "status")),
    Route("GET", "/v1/sessions/{id}", reading.session, READ, State, AT),
    Route(
        "GET",
        "/v1/sessions/{id}/timeline",
        timeline_picture.timeline,
        READ,
        None,
        ("since", "until"),
        content="image/svg+xml",
    ),
    Route(
        "GET",
        "/v1/sessions/{id}/scene",
        timeline_picture.scene,
        READ,
        timeline_picture.Timeline,
        ("since", "until", "after"),
    ),
    Route(
        "GET",
        "/v1/sessions/{id}/audio",
        utterance_audio.audio,
        READ,
        None,
        ("event",),
        content="audio/wav",
    ),
    Route(
        "GET",
        "/v1/sessions/{id}/report",
        session_report.report,
        AUDIT,
        content="text/html",
    ),
    Route("GET", "/v1/jobs/{id}", reading.job, READ, State, AT),
    Route("GET", "/v1/jobs/{id}/why", reading.why, READ, JobExplanation),
    Route("GET", "/v1/groups/{id:path}", reading.group, READ, State, AT),
    Route("GET", "/v1/nodes/{id}", reading.node, READ_SYSTEM, State, AT),
    Route(
        "GET",
        "/v1/events",
        event_stream.events,
        READ,
        None,
        ("cells", "after"),
        content="text/event-stream",
    ),
    Route(
        "GET",
        "/v1/history",
        reading.history,
        READ,
        reading.EventList,
        ("session", "job", "node", "tenant", "type", "since", "until", "after", "count"),
    ),
)
