"""Lists of sessions, jobs, nodes and groups, by pages.

Owns: the parameters of these routes, which tenant's items a token may list.
Never does: read indexes. Read next: routes.py, history/index_lists.py.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from eventsched.errors import InvalidMessage
from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.reading import cell_of, check_session, count_of, tenant_of
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.history.index_lists import PAGE_MAX, ListReader
from eventsched.projection.store import ProjectionStore
from eventsched.schema import keys
from eventsched.tokens.claims import Claims

SESSION_STATUSES = ("open", "closing", "closed")
NODE_STATUSES = ("alive", "draining", "gone")


@in_turn
async def sessions(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Sessions with events in the log, live and past, the one with the newest event first."""
    status = _status(request, SESSION_STATUSES)
    after, count = _position(request)
    lists = _lists(request, gateway, claims)
    return json_reply(await lists.sessions(after, count, status))


@in_turn
async def jobs(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Jobs that wait for a node, in the order of their tags; or the jobs of a session."""
    after, count = _position(request)
    session = request.query_params.get("session", "")
    if not session:
        lists = _lists(request, gateway, claims)
        return json_reply(await lists.waiting_jobs(after, count))
    source = gateway.history_source()
    full = source.complete(session)
    await check_session(source, gateway.reader(source), claims, session, "session", session)
    lists = _lists(request, gateway, claims, keys.cell_of(full))
    return json_reply(await lists.jobs_of(full, after, count))


@in_turn
async def groups(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Groups of results, those of the session with the newest event first, without texts."""
    after, count = _position(request)
    return json_reply(await _lists(request, gateway, claims).groups(after, count))


@in_turn
async def nodes(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Nodes with events in the log, also lost ones, the one with the oldest event first.

    With `status`, only those that are alive, draining or gone.
    """
    status = _status(request, NODE_STATUSES)
    after, count = _position(request)
    return json_reply(await _lists(request, gateway, claims).nodes(after, count, status))


def _status(request: Request, statuses: tuple[str, ...]) -> str:
    """Return the parameter `status`; empty for all. Raises InvalidMessage."""
    status = request.query_params.get("status", "")
    if status and status not in statuses:
        raise InvalidMessage.of("status", f"one of {', '.join(statuses)}", "leave it out for all")
    return status


def _position(request: Request) -> tuple[str, int]:
    """Return the parameters `after` and `count`. Raises InvalidMessage."""
    return request.query_params.get("after", ""), count_of(request, PAGE_MAX)


def _lists(request: Request, gateway: Gateway, claims: Claims, cell: str = "") -> ListReader:
    """Return the lists of a cell that the bearer may read. Raises InvalidMessage, NotFound."""
    store = gateway.connection.stores[cell or cell_of(request, gateway)]
    return ListReader(
        ProjectionStore(store.transport, store.cell),
        gateway.reader(gateway.history_source()),
        gateway.tenants,
        tenant_of(request, claims),
    )
