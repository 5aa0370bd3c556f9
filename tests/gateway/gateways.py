"""A whole system with a gateway on a real port, and calls with tokens.

async with gateway_system(server.url, cell) as system:
    reply = await system.get("/v1/status", system.token("viewer"))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from eventsched.client.client import Client
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.server import serving_gateway
from eventsched.gateway.service import Gateway
from eventsched.roles.runner import ROLES
from eventsched.store.cell import Store
from eventsched.store.client import check_server, open_client
from eventsched.store.connection import Connection
from eventsched.store.transport import RedisTransport
from eventsched.tokens import TokenKey, issue
from eventsched.tokens.keys import add_public_key
from tests.systems import system

TIMEOUT_S = 60.0


class GatewaySystem:
    """A running gateway, a client of the library beside it, and the key of its tokens."""

    def __init__(
        self, es: Client, gateway: Gateway, key: TokenKey, keys: Path, http: httpx.AsyncClient
    ) -> None:
        self.es = es
        self.gateway = gateway
        self.url = gateway.url
        self.key = key
        self.keys = keys
        """File of the public keys, for a further gateway."""
        self.http = http

    def token(self, role: str, tenant: str = "*", **claims: Any) -> str:
        return issue(self.key, role=role, tenant=tenant, subject="test", **claims)

    async def get(self, path: str, token: str = "", **query: Any) -> httpx.Response:
        return await self.http.get(self.url + path, headers=bearer(token), params=query)

    async def json(self, path: str, token: str, **query: Any) -> Any:
        """The JSON of a reply with status 200."""
        reply = await self.get(path, token, **query)
        assert reply.status_code == 200, reply.text
        return reply.json()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


@asynccontextmanager
async def gateway_system(
    url: str,
    *cells: str,
    roles: tuple[str, ...] = tuple(ROLES),
    settings: Mapping[str, int] | None = None,
    **config: Any,
) -> AsyncIterator[GatewaySystem]:
    """The roles, a client and a gateway on fresh cells, in real time."""
    with TemporaryDirectory() as folder:
        key = TokenKey.generate()
        keys = Path(folder) / "keys.json"
        add_public_key(keys, key)
        async with (
            system(url, *cells, roles=roles, settings=settings) as es,
            running_gateway(url, *cells, keys=keys, **config) as gateway,
            httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http,
        ):
            yield GatewaySystem(es, gateway, key, keys, http)


@asynccontextmanager
async def gateway_on(url: str, *cells: str, keys: Path, **config: Any) -> AsyncIterator[str]:
    """The URL of one more gateway of the same cells."""
    async with running_gateway(url, *cells, keys=keys, **config) as gateway:
        yield gateway.url


@asynccontextmanager
async def running_gateway(
    url: str, *cells: str, keys: Path, **config: Any
) -> AsyncIterator[Gateway]:
    """A gateway with connections of its own."""
    calling, blocking = await open_client(url), await open_client(url)
    try:
        transport = RedisTransport(calling, blocking)
        stores = {cell: Store(transport, cell) for cell in cells}
        connection = Connection(url, await check_server(calling), transport, stores)
        options = GatewayConfig(token_keys=str(keys), **config)
        async with serving_gateway(connection, options) as gateway:
            yield gateway
    finally:
        await calling.aclose()
        await blocking.aclose()
