"""The report of a session as a file: `GET /v1/sessions/{id}/report`.

Owns: who may have it, and its headers. Never does: collect or write the report.
Read next: report/content.py, report/page.py, docs/audit.md.

The proofs in a report are stored entries as they are, with texts and with the evidence about other
tenants. So only a token for all tenants that shows texts gets one.
"""

from __future__ import annotations

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from eventsched.errors import Forbidden
from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.service import Gateway
from eventsched.report.content import read_report
from eventsched.report.page import POLICY, write_page
from eventsched.tokens.claims import Claims


def check_texts(claims: Claims) -> None:
    """Raise Forbidden if the token hides texts, which a proof has."""
    if not claims.texts:
        raise Forbidden("proofs have what was spoken, which the token hides")


@in_turn
async def report(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A page about a session with proofs of its events, to keep (`eventsched report`)."""
    check_texts(claims)
    content = await read_report(gateway.history_source(), request.path_params["id"])
    page = await to_thread.run_sync(write_page, content)
    headers = {
        "cache-control": "no-store",
        "content-disposition": f'attachment; filename="{content.session}.html"',
        "content-security-policy": f"{POLICY}; sandbox",
        "x-content-type-options": "nosniff",
    }
    return Response(page, 200, headers, "text/html")
