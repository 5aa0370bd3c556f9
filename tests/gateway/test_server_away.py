"""A gateway whose server goes away: what is acknowledged is stored, and nothing else is lost."""

from __future__ import annotations

import anyio
import anyio.to_thread

from eventsched.server.testing import LocalServer
from tests.gateway.gateways import gateway_system
from tests.gateway.sockets import node_socket, producer


async def test_audio_that_comes_while_the_server_is_away_is_stored_when_it_is_back(
    own_server: LocalServer,
) -> None:
    own_server.call("CONFIG", "SET", "appendfsync", "always")  # acknowledged audio survives
    async with (
        gateway_system(own_server.url, "c0") as system,
        node_socket(system) as node,
        producer(system) as socket,
    ):
        registered = await node.register()
        await socket.open()
        await socket.chunk(0)
        await socket.stored(1)
        await anyio.to_thread.run_sync(own_server.kill)
        for number in range(1, 20):
            await socket.chunk(number)
        await socket.send("finalize")
        assert (await system.get("/healthz")).status_code == 200
        ready = await system.get("/readyz")
        assert (ready.status_code, ready.json()["ok"]) == (503, False)
        await anyio.to_thread.run_sync(own_server.start)
        await socket.stored(20)
        heard_ms = 0
        while heard_ms < 2_000:  # the outage may be a pause, which ends the first utterance
            heard_ms += (await node.expect("job"))["ms"]
        await node.send("heartbeat")
        await node.expect("heartbeat", lost=[])
        assert (heard_ms, registered["epoch"]) == (2_000, 1)
        acks = [frame["next_seq"] for frame in socket.skipped if frame["type"] == "ack"]
        assert acks == sorted(acks)
