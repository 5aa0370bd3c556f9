"""The console: the files of a page that reads the routes of this gateway.

Owns: the policy of the page, how long browsers keep a file.
Never does: read data; the page calls the routes with the cookie of its login.
Read next: console_files.py, login.py, docs/console.md.

The policy allows files and calls of the gateway's own origin only: no inline code or style, no
other site, no frame. The files hold no data, so they need no token.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from eventsched.errors import NotFound
from eventsched.gateway.console_files import INDEX
from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
NOT_BUILT = "This gateway has no console. `make console` builds it in a clone.\n"
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
}
_IMMUTABLE = "public, max-age=31536000, immutable"


async def console(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """The console, a page for operators and auditors."""
    if not gateway.console:
        return PlainTextResponse(NOT_BUILT, 404, HEADERS)
    path = request.path_params["path"] or INDEX
    file = gateway.console.get(path)
    if file is None:
        raise NotFound(f"the console has no file {path:.200}")
    has_hash = path.startswith("assets/")  # the name of such a file changes with its content
    headers = HEADERS | {"cache-control": _IMMUTABLE if has_hash else "no-cache"}
    return Response(file.content, 200, headers, file.media_type)
