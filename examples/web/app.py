"""The web application: its page, the client for the page, and tokens for its users.

    GATEWAY=http://127.0.0.1:8080 TOKEN_KEY=token.key uvicorn examples.web.app:app

Owns: who gets a token. This one knows no users, and gives every page a token of one tenant. An
application of your own issues it to a user that it has logged in.
Must not: handle audio, which goes from the page to the gateway.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from eventsched.tokens import issue

FOLDER = Path(__file__).parent / "static"
CLIENT = Path(__file__).parents[2] / "clients" / "js"
TENANT = "example"
TOKEN_S = 300


def gateway() -> str:
    return os.environ["GATEWAY"]


async def page(request: Request) -> Response:
    """The page. Its policy permits scripts of this application only, and sockets to the gateway."""
    socket = gateway().replace("http", "ws", 1)
    policy = f"default-src 'self'; connect-src 'self' {socket}"
    return FileResponse(FOLDER / "index.html", headers={"Content-Security-Policy": policy})


async def token(request: Request) -> Response:
    """A token of five minutes for the socket of a producer. The page asks again before each use."""
    key = Path(os.environ["TOKEN_KEY"])
    issued = issue(key, role="producer", tenant=TENANT, subject="page", seconds=TOKEN_S)
    return JSONResponse({"token": issued, "gateway": gateway()})


app = Starlette(
    routes=[
        Route("/", page),
        Route("/token", token, methods=["POST"]),
        Mount("/client", StaticFiles(directory=CLIENT)),
        Mount("/", StaticFiles(directory=FOLDER)),
    ]
)
