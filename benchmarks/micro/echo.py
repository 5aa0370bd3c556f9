"""A bare echo server on the WebSocket library of the gateway, to compare the gateway with.

    python -m benchmarks.micro.echo

It prints its URL.

Owns: the server. Never does: measure. Read next: gateway.py.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send each frame back."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def serve() -> None:
    """Serve until a signal."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2_048)
        config = uvicorn.Config(
            echo,
            ws=WebSocketsSansIOProtocol,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            log_level="warning",
        )
        sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        await uvicorn.Server(config).serve([listening])


if __name__ == "__main__":
    asyncio.run(serve())
