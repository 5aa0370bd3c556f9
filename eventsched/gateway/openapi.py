"""The OpenAPI document of a gateway, made from the access table and the structs of its replies.

Owns: the parameters of paths and queries, the form of the document.
Never does: serve other routes. Read next: routes.py, docs/gateway.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventsched.gateway.access import Access
from eventsched.gateway.login import CSRF_HEADER
from eventsched.gateway.logins import COOKIE
from eventsched.gateway.replies import ErrorBody, json_reply
from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims

VERSION = "1"
"""Version of the routes: the `v1` of their paths."""
PARAMETERS = {
    "after": "`next` of the page before, or the position after which a stream starts.",
    "at": "An earlier time: a log id, a time of day, or an ISO 8601 time.",
    "cell": "Name of a cell; by default the first one.",
    "cells": "Names of cells, joined by comma; by default all.",
    "code": "One-time code of a login link.",
    "count": "Greatest number of items.",
    "event": "Id of an event.",
    "id": "Id of the entity.",
    "job": "Job key, or SESSION:UTTERANCE:TARGET.",
    "kind": "Name of a read model: session, group, job, node, or another installed one.",
    "match": "Text in the kind, the entry or the reason of the dead letters.",
    "node": "Id of a node.",
    "nodes": "Greatest number of nodes of each class: those that drain, then the busiest.",
    "path": "Path of a file; empty for the page.",
    "session": "Id of a session.",
    "since": "Time of the first event.",
    "status": "Of sessions: open, closing or closed; of nodes: alive, draining or gone.",
    "tenant": "Name of a tenant, for a token for all tenants.",
    "type": "Type of the events; may be given more than once.",
    "until": "Time of the last event.",
}
"""Name of a parameter -> its description."""
ERRORS = (400, 401, 403, 404, 409, 429, 500, 503)
PATH = re.compile(r"\{(\w+)(?::path)?\}")
REF = "#/components/schemas/{name}"


async def openapi(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The OpenAPI 3.1 document of these routes."""
    from eventsched.gateway.routes import ROUTES  # the table has a row for this route

    return json_reply(document(ROUTES, base_path=gateway.config.base_path))


def document(routes: Iterable[Any], *, base_path: str = "") -> dict[str, Any]:
    """Return the document.

    Args:
        routes: The rows of the access table.
        base_path: Path below which the routes are.
    """
    routes = list(routes)
    types = [kind for route in routes for kind in (route.reply, route.body) if kind is not None]
    _, components = msgspec.json.schema_components([*types, ErrorBody], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda each: each.method == "WS"):
        operations = paths.setdefault(PATH.sub(r"{\1}", route.path), {})
        method = "get" if route.method == "WS" else route.method.lower()
        operation = _operation(route)
        known = operations.get(method)
        operations[method] = _with_socket(known, operation) if known else operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eventsched gateway",
            "version": VERSION,
            "description": "Sockets are described in docs/protocol.md.",
        },
        "servers": [{"url": base_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": f"{COOKIE}_PORT"},
            },
        },
    }


def _with_socket(first: dict[str, Any], socket: dict[str, Any]) -> dict[str, Any]:
    """Return the operation of a path that is also a socket: OpenAPI has one entry for both."""
    return first | {
        "description": f"{first['description']} As a WebSocket: {socket['description']}",
        "responses": first["responses"] | socket["responses"],
        "x-socket-roles": socket["x-roles"],
        "x-socket-scope": socket["x-scope"],
    }


def _operation(route: Any) -> dict[str, Any]:
    summary = " ".join(inspect.cleandoc(route.handler.__doc__ or "").partition("\n\n")[0].split())
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}",
        "summary": summary,
        "description": summary,
        "parameters": [_parameter(name, "path") for name in PATH.findall(route.path)]
        + [_parameter(name, "query") for name in route.parameters],
        "responses": _responses(route),
        "security": [] if route.access is None else [{"bearer": []}, {"cookie": []}],
        "x-roles": _roles(route.access),
        "x-scope": "public" if route.access is None else route.access.scope,
    }
    if route.method == "POST" and route.access is not None:
        operation["parameters"].append(
            {
                "name": CSRF_HEADER,
                "in": "header",
                "required": False,
                "description": "`1`; needed with the cookie.",
                "schema": {"type": "string"},
            }
        )
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(route.body)}
    return operation


def _roles(access: Access | None) -> list[str]:
    return [] if access is None else sorted(access.roles)


def _parameter(name: str, place: str) -> dict[str, Any]:
    is_many = name == "type"
    text: dict[str, Any] = {"type": "integer"} if name == "count" else {"type": "string"}
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": PARAMETERS[name],
        "schema": {"type": "array", "items": text} if is_many else text,
    }


def _responses(route: Any) -> dict[str, Any]:
    done: dict[str, Any]
    if route.method == "WS":
        done = {"101": {"description": "The connection is a socket of docs/protocol.md."}}
    elif route.reply is None:
        done = {"200": {"description": "Done.", "content": {route.content: {}}}}
    else:
        done = {"200": {"description": "Done.", "content": _json(route.reply)}}
    failed = {
        str(status): {"description": HTTPStatus(status).phrase, "content": _json(ErrorBody)}
        for status in ERRORS
    }
    return done | failed


def _json(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REF)
    return {"application/json": {"schema": schema}}
