"""The read models of each cell: `GET /v1/projections`.

Owns: which revision of each read model is live, and how far its set has saved.
Never does: fold, or rebuild (operations.py does). Read next: projection/store.py.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims


class ReadModel(msgspec.Struct, frozen=True, kw_only=True):
    """A read model of a cell."""

    cell: str
    name: str
    projection_set: str
    """The set that folds it; all read models of a set have one checkpoint."""
    revision: str
    """The live revision, `<version>.<number>`; empty before the first event is folded."""
    checkpoint: str
    """Id of the last event of the saved records; empty before the first."""


@in_turn
async def projections(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The read models of each cell, with their live revisions and checkpoints."""
    source = gateway.history_source()
    models = []
    for cell in source.cells:
        store = source.projection_store(cell)
        assert store is not None  # a gateway has a server
        for each in source.sets:
            checkpoint = await store.checkpoint(each.name)
            for part in each.projections:
                revision = await store.active_revision(part.name)
                models.append(
                    ReadModel(
                        cell=cell, name=part.name, projection_set=each.name,
                        revision=revision or "", checkpoint=checkpoint,
                    )
                )  # fmt: skip
    return json_reply(models)
