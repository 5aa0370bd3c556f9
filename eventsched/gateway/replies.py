"""The replies of a gateway: JSON, and errors with their status.

Owns: the fields of an error, the status of each kind of error. Never does: I/O.
Read next: app.py (where errors arrive), errors.py (the exceptions).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from eventsched.audit.dead_letters import ActRefused
from eventsched.errors import (
    REPAIR,
    ArchiveError,
    Backpressure,
    Forbidden,
    InvalidMessage,
    JobUnknown,
    MissingDependencyError,
    NodeUnknown,
    NotFound,
    Refused,
    ServerUnavailable,
    SessionUnknown,
    StateDamaged,
    TokenKeyError,
    Unauthenticated,
)
from eventsched.gateway.authentication import TooManyFailures
from eventsched.gateway.connection_limits import TooManyConnections, TooManySockets
from eventsched.gateway.peer_log import GONE, peer_log
from eventsched.gateway.read_limit import TooManyReads
from eventsched.gateway.rebuilds import RebuildRefused
from eventsched.gateway.tenant_shares import TooManyDetectors, TooManyStreams
from eventsched.logs import get_logger

REMIND_S = 10.0
"""How often the log has why the gateway cannot serve."""

log = get_logger("eventsched.gateway")


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong."""

    code: str
    """A stable code, such as INVALID_MESSAGE."""
    message: str = ""
    field: str = ""
    """The field or parameter that is not acceptable."""
    limit: str = ""
    """What the field may have."""
    remedy: str = ""
    retry_after_ms: int = 0
    """When to try again."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a reply with an error."""

    error: ErrorReply


STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (InvalidMessage, 400, ""),
    (Unauthenticated, 401, "UNAUTHENTICATED"),
    (Forbidden, 403, "FORBIDDEN"),
    (NotFound, 404, "NOT_FOUND"),
    (SessionUnknown, 404, ""),
    (JobUnknown, 404, ""),
    (NodeUnknown, 404, ""),
    (ActRefused, 409, "ACT_REFUSED"),
    (RebuildRefused, 409, "REBUILD_REFUSED"),
    (TooManyFailures, 429, "TOO_MANY_FAILURES"),
    (TooManyReads, 429, "TOO_MANY_READS"),
    (TooManyConnections, 429, "TOO_MANY_CONNECTIONS"),
    (TooManyStreams, 429, "TOO_MANY_STREAMS"),
    (TooManyDetectors, 429, "TOO_MANY_DETECTORS"),
    (TooManySockets, 503, "TOO_MANY_SOCKETS"),
    (Backpressure, 429, ""),
    (Refused, 409, ""),
    (TokenKeyError, 503, "SERVER_UNAVAILABLE"),
    (StateDamaged, 503, "STATE_DAMAGED"),
    (ServerUnavailable, 503, "SERVER_UNAVAILABLE"),
    (MissingDependencyError, 501, "NOT_INSTALLED"),
    (ArchiveError, 503, "ARCHIVE_UNUSABLE"),
)
"""Exception -> status, code; an empty code is the code of the refusal. The first match counts."""


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a reply with a JSON body that no cache stores."""
    named = {"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})}
    return Response(msgspec.json.encode(value), status, named, "application/json")


def error_of(error: Exception) -> tuple[int, ErrorReply]:
    """Return the status and the fields of an error; an unforeseen one is logged as INTERNAL."""
    status, code = next(
        ((status, code) for kind, status, code in STATUS if isinstance(error, kind)), (500, "")
    )
    if status == 500:
        if not isinstance(error, GONE):
            peer_log.failure("request failed", error)
        return status, ErrorReply(code="INTERNAL", message="see the log of the gateway")
    if isinstance(error, StateDamaged):  # names a record
        _unavailable.log(error)
        remedy = f"the operator runs {REPAIR}"
        message = "a stored record is damaged"
        return status, ErrorReply(code=error.code, message=message, remedy=remedy)
    if isinstance(error, ServerUnavailable | TokenKeyError | ArchiveError):  # names hosts and paths
        _unavailable.log(error)
        message = "the gateway cannot serve now; its log says why"
        return status, ErrorReply(code=code, message=message)
    if not isinstance(error, Refused):
        retry_after_ms = getattr(error, "retry_after_ms", 0)
        return status, ErrorReply(code=code, message=str(error), retry_after_ms=retry_after_ms)
    fields = error.fields
    return status, ErrorReply(
        code=error.code,
        message=str(error),
        field=fields.get("field", ""),
        limit=fields.get("limit", ""),
        remedy=fields.get("remedy", error.remedy),
        retry_after_ms=error.retry_after_ms if isinstance(error, Backpressure) else 0,
    )


class _Reminder:
    """Logs why the gateway cannot serve, not for each request."""

    def __init__(self) -> None:
        self._logged_s = -REMIND_S

    def log(self, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s >= REMIND_S:
            self._logged_s = now_s
            log.warning("gateway cannot serve", error=f"{error!s:.500}")


_unavailable = _Reminder()


def error_response(error: Exception) -> Response:
    """Return the reply for an error."""
    status, reply = error_of(error)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if reply.retry_after_ms:
        headers["retry-after"] = str(-(-reply.retry_after_ms // 1_000))
    return json_reply(ErrorBody(error=reply), status, headers)
