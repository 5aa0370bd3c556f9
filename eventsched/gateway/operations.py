"""Operations: retrying a dead letter.

Owns: the body of the request; who acts is the subject of the token.
Never does: decide. Read next: routes.py, audit/dead_letters.py.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventsched.audit.dead_letters import retry_dead_letter
from eventsched.errors import InvalidMessage, NotFound
from eventsched.gateway.frames import FrameDecoder
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.schema.ids import is_id
from eventsched.store.operator_commands import Act
from eventsched.tokens.claims import Claims

BODY_BYTES_MAX = 65_536
_Why: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Body = TypeVar("Body")


class RetryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a retry."""

    why: _Why
    """The reason; the event DeadLettersRetried records it with the subject of the token."""
    request: str = ""
    """Id of the act, a name: a repeated request with the same id changes nothing."""
    force: bool = False
    """Retry even an entry that was processed partially."""


_RETRY: FrameDecoder[RetryRequest] = FrameDecoder(RetryRequest)


async def retry(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Process a dead letter again (`eventsched dead-letters retry`)."""
    body = await _body(request, _RETRY)
    cell, entry_id = request.path_params["cell"], request.path_params["id"]
    store = gateway.connection.stores.get(cell)
    if store is None or not is_id(entry_id):
        raise NotFound(f"no dead letter {cell}/{entry_id}")
    act = Act.of(claims.sub, body.why, body.request)
    return json_reply(await retry_dead_letter(store, entry_id, act, force=body.force))


async def _body(request: Request, decoder: FrameDecoder[Body]) -> Body:
    """Return the body of a request. Raises InvalidMessage."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > BODY_BYTES_MAX:
            raise InvalidMessage.of("body", f"at most {BODY_BYTES_MAX:,} bytes", "shorten it")
    return decoder.decode(content.decode("utf-8", "replace"))
