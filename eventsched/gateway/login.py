"""Cookies of browsers: from a one-time code to a cookie with a token.

Owns: setting the cookie, the header that a request with a cookie needs to change anything.
Never does: issue tokens; a program with the private key does, and hands the gateway a token for a
code. Read next: login_codes.py, logins.py, authentication.py.

A link with a token would show it in histories and logs. A code works once and for a minute, and
only at the gateway that made it. Scripts cannot read the cookie, and other sites cannot send it.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from eventsched.errors import Forbidden
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims

CSRF_HEADER = "x-eventsched-csrf"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Who is logged in."""

    subject: str
    role: str
    tenant: str
    expires: int
    """In seconds since 1970."""


async def login(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """Exchange a one-time code for a cookie."""
    token = gateway.codes.take(request.query_params.get("code", ""))
    login_claims = await gateway.authenticator.verify(token, request)
    reply = json_reply(_login_of(login_claims))
    value = gateway.logins.add(token, request, login_claims.exp)
    _set_cookie(reply, request, gateway, value, max(0, login_claims.exp - int(time.time())))
    return reply


async def who(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Whose token the request has."""
    return json_reply(_login_of(claims))


async def logout(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """End the login, and delete its cookie."""
    if gateway.logins.token_of(request) is not None:
        check_csrf(request, "POST")
        gateway.logins.remove(request)
    reply = json_reply({"ok": True})
    _set_cookie(reply, request, gateway, "", 0)
    return reply


def check_csrf(connection: HTTPConnection, method: Literal["GET", "POST", "WS"]) -> None:
    """Check a request that its cookie authenticates: a page of the gateway sends what changes data.

    Only scripts of the same origin can send the header. Raises Forbidden.
    """
    if method == "POST" and connection.headers.get(CSRF_HEADER) != "1":
        raise Forbidden(f"the header {CSRF_HEADER}: 1 is needed with a cookie")


def _login_of(claims: Claims) -> Login:
    return Login(subject=claims.sub, role=claims.role, tenant=claims.tenant, expires=claims.exp)


def _set_cookie(
    reply: Response, request: Request, gateway: Gateway, value: str, seconds: int
) -> None:
    reply.set_cookie(
        gateway.logins.name_for(request),
        value,
        max_age=seconds,
        path=gateway.logins.path,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
