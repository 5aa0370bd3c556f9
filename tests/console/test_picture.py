"""The picture of a session: its texts, and a token that hides them."""

from __future__ import annotations

import pytest

import eventsched
from tests.gateway.gateways import gateway_system
from tests.gateway.test_events import speak
from tests.server_kinds import Server
from tests.systems import serving, until


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_picture_hides_texts_and_sessions_of_other_tenants(
    server: Server, cell: str
) -> None:
    node = eventsched.Node("n1", sources=["en"], targets=["es"])

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text="spoken words")

    async with gateway_system(server.url, cell) as system, serving(system.es, node):
        session = await speak(system)
        path = f"/v1/sessions/{session}/timeline"

        async def has_text() -> bool:
            reply = await system.get(path, system.token("viewer", "acme"))
            return reply.status_code == 200 and "spoken words" in reply.text

        await until("the result is in the picture", has_text)
        hidden = await system.get(path, system.token("viewer", "acme", texts=False))
        assert hidden.status_code == 200
        assert hidden.headers["content-type"].startswith("image/svg+xml")
        assert "script" not in hidden.headers["content-security-policy"]
        assert "spoken words" not in hidden.text
        assert "u0 es" in hidden.text
        other = await system.get(path, system.token("viewer", "other"))
        assert (other.status_code, other.json()["error"]["code"]) == (404, "NOT_FOUND")
        part = await system.get(path, system.token("viewer"), since="1-0", until="2-0")
        assert part.status_code == 200
