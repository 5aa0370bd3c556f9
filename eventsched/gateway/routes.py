"""The routes of a gateway and who may use them: the access table.

Owns: one row for each route. A route exists only through its row, so none is without access rules;
`tests/gateway/test_access.py` tries every role on every row.
Never does: serve. Read next: access.py, app.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from eventsched.audit.dead_letters import Retry
from eventsched.audit.explain import JobExplanation
from eventsched.gateway import (
    event_stream,
    health,
    login,
    node_socket,
    operations,
    producer_socket,
    reading,
)
from eventsched.gateway.access import (
    ANY,
    AUDIT,
    OPERATE,
    PRODUCE,
    PUBLIC,
    READ,
    READ_SYSTEM,
    SERVE,
    Access,
)
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
    """Type of the JSON of the reply."""
    parameters: tuple[str, ...] = ()
    """Names of the parameters in the query."""


AT = ("at",)
ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", health.healthz, PUBLIC),
    Route("GET", "/readyz", health.readyz, PUBLIC),
    Route("GET", "/v1/login", login.login, PUBLIC, login.Login, ("code",)),
    Route("POST", "/v1/logout", login.logout, PUBLIC),
    Route("GET", "/v1/who", login.who, ANY, login.Login),
    Route("WS", "/v1/sessions", producer_socket.sessions, PRODUCE),
    Route("WS", "/v1/nodes", node_socket.nodes, SERVE),
    Route("GET", "/v1/status", reading.status, READ_SYSTEM, SystemStatus),
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
        ("cell", "after", "count"),
    ),
    Route("POST", "/v1/dead-letters/{cell}/{id}/retry", operations.retry, OPERATE, Retry),
    Route("GET", "/v1/archive", reading.archive, AUDIT, list[reading.CellArchive]),
    Route("GET", "/v1/state/{kind}/{id:path}", reading.state, READ, State, AT),
    Route("GET", "/v1/sessions/{id}", reading.session, READ, State, AT),
    Route("GET", "/v1/jobs/{id}", reading.job, READ, State, AT),
    Route("GET", "/v1/jobs/{id}/why", reading.why, READ, JobExplanation),
    Route("GET", "/v1/groups/{id:path}", reading.group, READ, State, AT),
    Route("GET", "/v1/nodes/{id}", reading.node, READ_SYSTEM, State, AT),
    Route("GET", "/v1/events", event_stream.events, READ, None, ("cells", "after")),
    Route(
        "GET",
        "/v1/history",
        reading.history,
        READ,
        reading.EventList,
        ("session", "job", "node", "tenant", "type", "since", "until", "after", "count"),
    ),
)
