"""The report of a session with its proofs, to keep: `GET /v1/sessions/{id}/report`.

Owns: the headers of the page, its limits, who may have it.
Never does: collect or write the page; a process of its own does, because a session may be long.
Read next: cli/report.py, child_commands.py, archive_audit.py.

The proofs in a report are stored entries as they are, with texts and with the evidence about other
tenants. So only a token for all tenants that shows texts gets one. The process gets no key store:
encrypted texts stay encrypted.
"""

from __future__ import annotations

import os

import anyio
from starlette.requests import Request
from starlette.responses import Response

from eventsched.encryption.keystore import VARIABLE as KEYS_VARIABLE
from eventsched.errors import Forbidden, InvalidMessage
from eventsched.gateway.access import share_of
from eventsched.gateway.child_commands import running_command
from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.service import Gateway
from eventsched.history.reader import EventFilter
from eventsched.report.page import POLICY
from eventsched.server.choice import URL_VARIABLE
from eventsched.tokens.claims import Claims

SECONDS_MAX = 60.0
BYTES_MAX = 32 << 20


def check_texts(claims: Claims) -> None:
    """Raise Forbidden if the token hides texts, which a proof has."""
    if not claims.texts:
        raise Forbidden("proofs have what was spoken, which the token hides")


@in_turn
async def report(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """A page about a session with proofs of its events, to keep (`eventsched report`).

    It takes at most 60 s; a longer session needs the command.
    """
    check_texts(claims)
    source = gateway.history_source()
    session = source.complete(request.path_params["id"])
    await gateway.reader(source).page(EventFilter(session=session), {}, 1)  # raises NotFound
    async with gateway.reporting.turn(share_of(claims)), gateway.reports:
        with anyio.move_on_after(SECONDS_MAX):
            page = await _print_report(gateway, session)
            headers = {
                "cache-control": "no-store",
                "content-disposition": f'attachment; filename="{session}.html"',
                "content-security-policy": f"{POLICY}; sandbox",
                "x-content-type-options": "nosniff",
            }
            return Response(page, 200, headers, "text/html")
    raise InvalidMessage.of("session", f"a report within {SECONDS_MAX:.0f} s", "run the command")


async def _print_report(gateway: Gateway, session: str) -> bytes:
    options = ["--output=-"]
    if gateway.archive is not None:
        options.append(f"--archive={gateway.archive.path}")
    environment = os.environ | {URL_VARIABLE: gateway.connection.url}
    environment.pop(KEYS_VARIABLE, None)
    async with running_command(["report", *options, "--", session], environment) as running:
        page = await running.output(BYTES_MAX)
        await running.end(0)
    return page
