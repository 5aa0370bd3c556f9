"""Reading: status, records, events and explanations, as the command line prints them with `--json`.

Owns: the parameters of these routes, which tenant's data a token may read, hiding texts.
Never does: fold or render. Read next: routes.py, history/reader.py.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from eventsched.audit.dead_letters import matches
from eventsched.audit.service import why as explain
from eventsched.errors import Forbidden, InvalidMessage, NotFound, UnreadableRecord
from eventsched.gateway.cursor import format_cursor, parse_cursor
from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.gateway.tenant_view import (
    event_for_tenant,
    explanation_for_tenant,
    state_for_tenant,
)
from eventsched.history.consumer_groups import ConsumerGroupStatus
from eventsched.history.dead_letters import read_dead_letters, without_reason
from eventsched.history.event_filter import make_filter
from eventsched.history.event_json import HIDDEN_REASON, event_json
from eventsched.history.position import parse_position
from eventsched.history.reader import Reader
from eventsched.history.record_json import named
from eventsched.history.source import HistorySource, session_of_job
from eventsched.history.status import ConsumerStatus, without_reasons
from eventsched.projection.fold import FailedEvent
from eventsched.schema.events import Event
from eventsched.tokens.claims import ALL_TENANTS, Claims

EVENTS_MAX = 1_000
LETTERS_MAX = 1_000
LETTERS_BYTES_MAX = 4 * 2**20
"""Bytes of the dead letters of one page; the last one may go beyond them."""
LETTERS_LOOKED_AT_MAX = 10_000
"""Dead letters that one page looks at."""
NODES_MAX = 10_000
ENTRIES_MAX = 50_000
"""Entries that are folded for an explanation: a tenth of a second of the server's time."""
DECISION_NODES_MAX = 100
TENANT_KINDS = ("session", "group", "job")
"""Read models whose records belong to one tenant."""
TEXT_FIELDS = frozenset({"text", "source_text", "ciphertext", "context"})
_COUNT = re.compile(r"[0-9]{1,5}")


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """Some events, oldest first."""

    events: list[dict[str, Any]]
    next: str
    """Pass it as `after` to read on; empty if these are all. A list may have no event and go on. It
    ends early after 4 MiB of events."""


class DeadLetterList(msgspec.Struct, frozen=True, kw_only=True):
    """Some dead letters of a cell, oldest first."""

    dead_letters: list[dict[str, Any]]
    next: str
    """Pass it as `after` to read on; empty if these are all. A list may have no item and go on, and
    ends early after 4 MiB of them."""


class CellGroups(msgspec.Struct, frozen=True, kw_only=True):
    """The consumers of a cell."""

    cell: str
    consumers: list[ConsumerStatus]
    consumer_groups: list[ConsumerGroupStatus]
    """The consumer groups of other programs on the log."""


class CellArchive(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive has of a cell."""

    cell: str
    segments: int
    events: int
    last: str
    """Id of the last archived event; empty if there is none."""
    root: str
    """Root of the signed tree over all segments; empty if there is none."""
    key: str
    """Fingerprint of the key that signs the archive."""


@in_turn
async def status(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Roles, lag, dead letters, waiting jobs and nodes of each cell (`eventsched status`).

    With `nodes`, at most so many nodes of each class: those that drain, then the busiest.
    """
    named = "nodes" in request.query_params
    nodes_max = count_of(request, NODES_MAX, name="nodes", least=0) if named else None
    reading = await gateway.status.value()
    if nodes_max is not None:
        reading = reading.with_nodes(nodes_max)
    return json_reply(reading if claims.texts else without_reasons(reading))


@in_turn
async def consumer_groups(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The lag of each consumer of each cell, and the consumer groups of other programs."""
    cells = (await gateway.status.value()).cells
    return json_reply(
        [
            CellGroups(
                cell=each.cell, consumers=each.consumers, consumer_groups=each.consumer_groups
            )
            for each in cells
        ]
    )


@in_turn
async def dead_letters(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Entries of a cell that could not be processed (`eventsched dead-letters`).

    With `match`, those in whose kind, entry or reason the text occurs, of 10,000 for a page.
    """
    cell = cell_of(request, gateway)
    cells = gateway.connection.cells
    after = parse_cursor("after", request.query_params.get("after", ""), cells)
    count, match = count_of(request, LETTERS_MAX), request.query_params.get("match", "")
    letters: list[dict[str, Any]] = []
    looked_at, size, last = 0, 0, ""
    async for each in read_dead_letters(gateway.connection.stores[cell], after.get(cell, "")):
        is_full = len(letters) == count or size >= LETTERS_BYTES_MAX
        if is_full or looked_at == LETTERS_LOOKED_AT_MAX:
            return json_reply(DeadLetterList(dead_letters=letters, next=f"{cell}={last}"))
        looked_at, last = looked_at + 1, each["id"].partition("/")[2]
        letter = each if claims.texts else without_reason(each)
        if matches(letter, match):  # what is hidden cannot be searched for
            letters.append(letter)
            size += len(letter["data"])
    return json_reply(DeadLetterList(dead_letters=letters, next=""))


@in_turn
async def state(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A record of a read model, now or at an earlier time (`eventsched state`)."""
    return await _state(request, gateway, claims, request.path_params["kind"])


@in_turn
async def session(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A session, now or at an earlier time."""
    return await _state(request, gateway, claims, "session")


@in_turn
async def job(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A job by its key or as SESSION:UTTERANCE:TARGET, now or at an earlier time."""
    return await _state(request, gateway, claims, "job")


@in_turn
async def node(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A node, now or at an earlier time."""
    return await _state(request, gateway, claims, "node")


@in_turn
async def group(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A group of results, the context of further ones, now or at an earlier time."""
    return await _state(request, gateway, claims, "group")


async def _state(request: Request, gateway: Gateway, claims: Claims, kind: str) -> Response:
    entity = request.path_params["id"]
    at = request.query_params.get("at", "")
    source = gateway.history_source()
    reader = gateway.reader(source)
    position = parse_position(at, "at") if at else None
    if kind not in TENANT_KINDS:
        if claims.tenant != ALL_TENANTS:
            raise NotFound(f"no {kind} {entity}")
        if not claims.texts and kind != "node":
            raise Forbidden(f"records of {kind} may have texts, which the token hides")
    elif kind == "job":
        entity = await _checked_job(source, reader, claims, entity)
    else:
        await check_session(source, reader, claims, entity.partition("/")[0], kind, entity)
    try:
        fields = named(await reader.state(kind, entity, position))
    except UnreadableRecord as error:
        raise error if claims.texts else UnreadableRecord.of(kind, entity, HIDDEN_REASON) from None
    if claims.tenant != ALL_TENANTS:
        fields = state_for_tenant(kind, fields)
    return json_reply(fields if claims.texts else _without_texts(fields))


@in_turn
async def history(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """Events, oldest first (`eventsched history`)."""
    query = request.query_params
    source = gateway.history_source()
    reader = gateway.reader(source)
    entity = query.get("session", "") or query.get("job", "")
    if ":" in entity:
        entity = await _checked_job(source, reader, claims, entity)
    elif entity:
        await check_session(source, reader, claims, entity, "session", entity)
    tenant = tenant_of(request, claims)
    if query.get("node") and claims.tenant != ALL_TENANTS:
        raise NotFound("no such node")
    where = await make_filter(
        source,
        reader,
        entity,
        node=query.get("node", ""),
        tenant=tenant,
        types=query.getlist("type"),
        since=query.get("since", ""),
        until=query.get("until", ""),
    )
    after = parse_cursor("after", query.get("after", ""), source.cells)
    events: list[Any] = []

    def show(event: Event | FailedEvent) -> int:
        """Encode an event for the reply; return its bytes."""
        shown = event_json(event, texts=claims.texts)
        if claims.tenant != ALL_TENANTS:
            shown = event_for_tenant(shown)
        encoded = msgspec.json.encode(shown)
        events.append(msgspec.Raw(encoded))
        return len(encoded)

    page = await reader.page(where, after, count_of(request, EVENTS_MAX), show)
    return json_reply(
        EventList(events=events, next="" if page.is_last else format_cursor(page.after))
    )


@in_turn
async def why(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """How the node of each attempt of a job was chosen (`eventsched why`).

    A decision after more than 50,000 entries of the log, which are in no snapshot of an archive,
    has its evidence without the nodes; and no decision names more than 100 nodes.
    """
    source = gateway.history_source()
    key = await _checked_job(source, gateway.reader(source), claims, request.path_params["id"])
    if claims.tenant != ALL_TENANTS:  # which sees no nodes
        explanation = await explain(source, key, texts=claims.texts, entries_max=0)
        return json_reply(explanation_for_tenant(explanation))
    explanation = await explain(source, key, texts=claims.texts, entries_max=ENTRIES_MAX)
    decisions = [
        replace(each, nodes=each.nodes[:DECISION_NODES_MAX]) for each in explanation.decisions
    ]
    return json_reply(replace(explanation, decisions=decisions))


@in_turn
async def archive(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """How far the archive reaches, by cell."""
    from eventsched.archive.signing import fingerprint

    folder = gateway.archive
    if folder is None:
        raise NotFound("this gateway reads no archive: start it with --archive")
    cells = []
    for name in folder.cells():
        head = folder.cell(name).records().head
        cells.append(
            CellArchive(
                cell=name,
                segments=0 if head is None else head.segments,
                events=0 if head is None else head.events,
                last="" if head is None else head.last,
                root="" if head is None else head.root,
                key=fingerprint(folder.public),
            )
        )
    return json_reply(cells)


async def check_session(
    source: HistorySource, reader: Reader, claims: Claims, name: str, kind: str, entity: str
) -> None:
    """Raise NotFound if the session does not exist for the bearer of the token."""
    if claims.tenant == ALL_TENANTS:
        return
    if await reader.tenant_of(source.complete(name)) != claims.tenant:
        raise NotFound(f"no {kind} {entity}")


async def _checked_job(source: HistorySource, reader: Reader, claims: Claims, text: str) -> str:
    """Return the key of a job. Raises NotFound if it does not exist for the bearer."""
    is_key = text.count(":") != 2
    session = session_of_job(text) if is_key else text.partition(":")[0]
    await check_session(source, reader, claims, session, "job", text)
    key = await reader.job_key(text)
    if not claims.covers(key.partition(":")[0]):
        raise NotFound(f"no job {text}")
    return key


def cell_of(request: Request, gateway: Gateway) -> str:
    """Return the parameter `cell`, by default the first cell. Raises InvalidMessage."""
    cells = gateway.connection.cells
    cell = request.query_params.get("cell", cells[0])
    if cell not in cells:
        raise InvalidMessage.of("cell", f"one of {', '.join(cells)}", "check the name")
    return cell


def tenant_of(request: Request, claims: Claims) -> str:
    """Return the tenant whose data is listed; empty for all tenants. Raises NotFound."""
    tenant = request.query_params.get("tenant", "")
    if claims.tenant == ALL_TENANTS:
        return tenant
    if tenant not in ("", claims.tenant):
        raise NotFound("no such tenant")
    return claims.tenant


def count_of(request: Request, count_max: int, *, name: str = "count", least: int = 1) -> int:
    """Return a parameter that is a number, by default `count_max`. Raises InvalidMessage."""
    text = request.query_params.get(name, str(count_max))
    if not _COUNT.fullmatch(text) or not least <= int(text) <= count_max:
        raise InvalidMessage.of(
            name, f"{least} to {count_max:,} expected, got {text!r:.80}", "change it"
        )
    return int(text)


def _without_texts(value: Any) -> Any:
    """Return the value without the fields that hold what was spoken."""
    if isinstance(value, dict):
        return {k: _without_texts(v) for k, v in value.items() if k not in TEXT_FIELDS}
    return [_without_texts(each) for each in value] if isinstance(value, list) else value
