"""Operations: retrying and discarding dead letters, draining a node, rebuilding read models.

Owns: the bodies of these requests; who acts is the subject of the token.
Never does: decide; run a rebuild (rebuilds.py).
Read next: routes.py, audit/dead_letters.py, docs/adr/0036-operator-acts.md.

Each act is an event with its operator and its reason. A request may name the id of the act: a
repeated request with the same id changes nothing, so a client repeats a request without a reply.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventsched.audit.dead_letters import (
    LetterOutcome,
    discard_dead_letter,
    discard_dead_letters,
    retry_dead_letter,
    retry_dead_letters,
)
from eventsched.errors import InvalidMessage, NodeUnknown, NotFound
from eventsched.gateway.frames import FrameDecoder
from eventsched.gateway.rebuilds import RebuildReply
from eventsched.gateway.replies import json_reply
from eventsched.gateway.request_body import read_body
from eventsched.gateway.service import Gateway
from eventsched.projection.installed import missing_read_model
from eventsched.schema import keys
from eventsched.schema.ids import is_id
from eventsched.store.cell import Store
from eventsched.store.operator_commands import Act
from eventsched.tokens.claims import Claims

BY_BYTES_MAX = 200
PAGE = "docs/gateway.md"
_Why: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
_RequestId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{0,48}\Z")]
_EntryId: TypeAlias = Annotated[str, msgspec.Meta(max_length=41)]
_ChosenBy: TypeAlias = Annotated[str, msgspec.Meta(max_length=100)]
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Body = TypeVar("Body", bound="ActRequest")


class ActRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of every act."""

    why: _Why
    """The reason; the event of the act records it with the subject of the token."""
    request: _RequestId = ""
    """Id of the act: a repeated request with the same id changes nothing. Random if it is empty.
    Ids of different operators, and of different routes, are different."""

    def act(self, claims: Claims, verb: str) -> Act:
        """Return who does it and why. Raises InvalidMessage.

        An id that the client has chosen counts for this operator and this verb alone: it neither
        returns the reply of another operator's act nor is refused because of it.
        """
        if not self.why.isprintable():
            raise InvalidMessage.of("why", "a control character", "leave it out")
        name = "".join(filter(str.isprintable, claims.sub))
        by = name.encode()[:BY_BYTES_MAX].decode(errors="ignore")
        return Act.of(by, self.why, _scoped(claims, verb, self.request) if self.request else "")


def _scoped(claims: Claims, verb: str, request: str) -> str:
    """Return the id of an act for the id that an operator has given it."""
    return sha256("\0".join((claims.iss, claims.sub, verb, request)).encode()).hexdigest()[:32]


class RetryRequest(ActRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a retry."""

    force: bool = False
    """Retry even an entry that was processed partially."""


class PortionRequest(ActRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an act on some dead letters of a cell."""

    ids: Annotated[list[_EntryId], msgspec.Meta(min_length=1, max_length=500)]
    """Their entry ids, the part of `id` after the cell."""
    chosen_by: _ChosenBy = ""
    """How the operator chose them; the event records it."""

    def act(self, claims: Claims, verb: str) -> Act:
        """Return who does it and why. Raises InvalidMessage."""
        if not self.chosen_by.isprintable():
            raise InvalidMessage.of("chosen_by", "a control character", "leave it out")
        return ActRequest.act(self, claims, verb)


class PortionReply(msgspec.Struct, frozen=True, kw_only=True):
    """What an act did with each of some dead letters."""

    outcomes: list[LetterOutcome]
    """In the order of the ids. A dead letter that stays says why."""


class DrainRequest(ActRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a drain."""

    within_ms: Annotated[int, msgspec.Meta(ge=0, le=300_000)] = 60_000
    """After this time, attempts that still run go to other nodes."""


class RebuildRequest(ActRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a rebuild."""

    read_models: Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=16)]
    """Names of the read models to fold anew, in every cell."""
    failures_max: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """How many events may be left out because they cannot be folded."""


class DrainReply(msgspec.Struct, frozen=True, kw_only=True):
    """A node drains, or has drained."""

    node: str
    """Full id."""
    epoch: int
    """Number of the registration that ends."""
    leases: int
    """Attempts that the node has not ended."""


_ACT: FrameDecoder[ActRequest] = FrameDecoder(ActRequest, page=PAGE)
_RETRY: FrameDecoder[RetryRequest] = FrameDecoder(RetryRequest, page=PAGE)
_PORTION: FrameDecoder[PortionRequest] = FrameDecoder(PortionRequest, page=PAGE)
_DRAIN: FrameDecoder[DrainRequest] = FrameDecoder(DrainRequest, page=PAGE)
_REBUILD: FrameDecoder[RebuildRequest] = FrameDecoder(RebuildRequest, page=PAGE)


async def retry(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Process a dead letter again (`eventsched dead-letters retry`)."""
    body = await _body(request, _RETRY)
    store, entry_id = _dead_letter(request, gateway)
    outcome = await retry_dead_letter(store, entry_id, body.act(claims, "retry"), force=body.force)
    return json_reply(outcome)


async def discard(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Delete a dead letter that is no work (`eventsched dead-letters discard`)."""
    body = await _body(request, _ACT)
    store, entry_id = _dead_letter(request, gateway)
    return json_reply(await discard_dead_letter(store, entry_id, body.act(claims, "discard")))


async def retry_portion(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Process some dead letters again; one that was processed partially stays."""
    body = await _body(request, _PORTION)
    act, store = body.act(claims, "retry_portion"), _cell(request, gateway)
    outcomes = await retry_dead_letters(store, body.ids, act, chosen_by=body.chosen_by)
    return json_reply(PortionReply(outcomes=outcomes))


async def discard_portion(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Delete some dead letters; one that is work stays."""
    body = await _body(request, _PORTION)
    act, store = body.act(claims, "discard_portion"), _cell(request, gateway)
    outcomes = await discard_dead_letters(store, body.ids, act, chosen_by=body.chosen_by)
    return json_reply(PortionReply(outcomes=outcomes))


async def drain(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Drain a node: it gets no new jobs and finishes those that it has (`eventsched drain`)."""
    body = await _body(request, _DRAIN)
    node = gateway.history_source().complete(request.path_params["id"])
    store = gateway.connection.stores[keys.cell_of(node)]
    try:
        reply = await store.request_drain(node, body.act(claims, "drain"), within_ms=body.within_ms)
    except NodeUnknown:
        raise NotFound(f"no node {node} is registered") from None
    gateway.forget_status()
    return json_reply(DrainReply(node=node, epoch=reply.epoch, leases=reply.leases))


async def rebuild(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Fold the log into new records of read models, then make them live (`eventsched rebuild`).

    The reply comes after at most 20 s, with status 202 while the rebuild goes on. A repeated
    request with the same id waits again.
    """
    body = await _body(request, _REBUILD)
    known = gateway.read_models
    for name in body.read_models:
        if name not in known:
            raise missing_read_model("read_models", name, known)
    names = list(dict.fromkeys(body.read_models))
    request_id = body.request or secrets.token_hex(8)
    act = msgspec.structs.replace(body, request=request_id).act(claims, "rebuild")
    reply: RebuildReply = await gateway.rebuilds.run(
        names, act, body.failures_max, texts=claims.texts
    )
    shown = msgspec.structs.replace(reply, request=request_id)
    return json_reply(shown, 202 if reply.is_running else 200)


def _cell(request: Request, gateway: Gateway) -> Store:
    """Return the cell in the path of a request. Raises NotFound."""
    cell = request.path_params["cell"]
    if cell not in gateway.connection.stores:
        raise NotFound(f"no cell {cell}")
    return gateway.connection.stores[cell]


def _dead_letter(request: Request, gateway: Gateway) -> tuple[Store, str]:
    """Return the cell and the entry id in the path of a request. Raises NotFound."""
    cell, entry_id = request.path_params["cell"], request.path_params["id"]
    store = gateway.connection.stores.get(cell)
    if store is None or not is_id(entry_id):
        raise NotFound(f"no dead letter {cell}/{entry_id}")
    return store, entry_id


async def _body(request: Request, decoder: FrameDecoder[Body]) -> Body:
    """Return the body of a request. Raises InvalidMessage."""
    content = await read_body(request)
    body = decoder.decode(content.decode("utf-8", "replace"))
    if not body.why.strip():
        raise InvalidMessage.of("why", "a reason", "say why; the log records it")
    return body
