"""The ASGI application of a gateway: its routes with authentication, access and errors.

Owns: the order of the checks before a handler, replies for unknown paths.
Never does: the work of a route. Read next: routes.py, replies.py, server.py.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from starlette.routing import Route as HttpRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState
from uvicorn.protocols.utils import ClientDisconnected

from eventsched.errors import InvalidMessage, Unauthenticated
from eventsched.gateway.access import share_of
from eventsched.gateway.connection_limits import TooManyConnections
from eventsched.gateway.connections import all_sent_of, own_connection
from eventsched.gateway.frames import Close, error_frame
from eventsched.gateway.login import check_csrf
from eventsched.gateway.origin import check_handshake, check_origin, is_local
from eventsched.gateway.replies import ErrorBody, ErrorReply, error_of, error_response, json_reply
from eventsched.gateway.routes import ROUTES, Route
from eventsched.gateway.service import Gateway
from eventsched.gateway.socket import Ended, FrameSocket
from eventsched.tokens.claims import Claims

PARAMETERS_MAX = 32
"""Parameters of a query, with empty ones."""
_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}


def make_app(gateway: Gateway) -> Starlette:
    """Return the application of a gateway."""
    routes: list[BaseRoute] = [_routed(gateway, route) for route in ROUTES]
    base = gateway.config.base_path
    return Starlette(
        routes=[Mount(base, routes=routes)] if base else routes,
        exception_handlers={HTTPException: _on_http_error},
    )


def _routed(gateway: Gateway, route: Route) -> BaseRoute:
    if route.method == "WS":
        return WebSocketRoute(route.path, _SocketEndpoint(gateway, route))

    return HttpRoute(route.path, _HttpEndpoint(gateway, route), methods=[route.method])


class _HttpEndpoint:
    """A route with a reply. What its handler enters in `until_sent` lasts until that is sent."""

    def __init__(self, gateway: Gateway, route: Route) -> None:
        self._gateway = gateway
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        request.state.all_sent = all_sent_of(scope)
        async with AsyncExitStack() as until_sent:
            request.state.until_sent = until_sent
            response = await self._respond(request)
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if self._route.body is None and _has_body(request):
            return _refuse_body()
        try:
            _check_query(request)
            if self._route.method == "POST":
                check_origin(request, self._gateway.config.origins)
            claims = await authorize(self._gateway, self._route, request)
            response: Response = await self._route.handler(request, self._gateway, claims)
        except Exception as error:  # noqa: BLE001 - error_response logs what is unforeseen
            return error_response(error)
        return response


def _check_query(connection: HTTPConnection) -> None:
    """Refuse a query of too many parameters, before one is decoded. Raises InvalidMessage."""
    if connection.scope["query_string"].count(b"&") >= PARAMETERS_MAX:
        raise InvalidMessage.of("query", f"at most {PARAMETERS_MAX} parameters", "send fewer")


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return "transfer-encoding" in request.headers or length.strip("0") != ""


def _refuse_body() -> Response:
    """Return the reply to a body that no route reads; it ends the connection."""
    response = error_response(InvalidMessage.of("body", "none", "send no body to this path"))
    response.headers["connection"] = "close"
    return response


class _SocketEndpoint:
    """A WebSocket route. A caller that may not use it gets an HTTP error before the upgrade."""

    def __init__(self, gateway: Gateway, route: Route) -> None:
        self._gateway = gateway
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        try:
            _check_query(socket)
            check_handshake(socket, self._gateway.config.origins)
            claims = await authorize(self._gateway, self._route, socket)
            if claims is not None and claims.exp <= time.time():  # it would end at once
                raise Unauthenticated("the token has expired")
            with self._gateway.counted_socket():
                await self._route.handler(socket, self._gateway, claims)
        except ClientDisconnected:  # the server library expects it, and writes no line
            raise
        except TooManyConnections as error:  # a browser sees a close code, and no HTTP status
            await _refuse(socket, error)
        except Exception as error:  # noqa: BLE001 - error_response logs what is unforeseen
            if socket.application_state is WebSocketState.CONNECTING:
                await socket.send_denial_response(error_response(error))
            else:
                error_of(error)


async def _refuse(socket: WebSocket, error: TooManyConnections) -> None:
    """Accept a socket, and close it with the error."""
    frames = FrameSocket(socket, text_max=0, binary_max=0)
    await frames.accept()
    await frames.end(Ended(Close.TOO_MANY_CONNECTIONS, error_frame(error, fatal=True)))


async def authorize(gateway: Gateway, route: Route, connection: HTTPConnection) -> Claims | None:
    """Return the claims of a caller that may use the route; None if the route needs no token.

    Raises Unauthenticated, Forbidden, TooManyFailures, TokenKeyError, TooManyConnections,
    TooManySockets.
    """
    is_open = route.access is not None and route.access.is_open_to_loopback
    if route.access is None or (is_open and is_local(connection, gateway.config)):
        return None
    claims, is_by_cookie = await gateway.authenticator.authenticate(connection)
    route.access.check(claims)
    if is_by_cookie:
        check_csrf(connection, route.method)
    own_connection(connection.scope, share_of(claims))
    return claims


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "INVALID_MESSAGE")
    reply = ErrorReply(code=code, message=error.detail)
    return json_reply(ErrorBody(error=reply), error.status_code, error.headers)
