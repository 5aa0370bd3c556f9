"""The dialogues of docs/protocol.md hold on real sockets, and every frame has its schema."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from typing import Any, get_args

import pytest

from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.sockets import TENTH, node_socket, producer
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import serving
from tools.pages import PROTOCOL, SCHEMA
from tools.protocol_page import SOCKETS

DIALOGUES = re.findall(r"```text\n(> .*?)```", PROTOCOL.read_text(encoding="utf-8"), re.DOTALL)
_CHUNK = re.compile(r"chunk (\d+), 100 ms")
_AUDIO = re.compile(r"audio of (\d+)")


class Dialogue:
    """Replays one dialogue; `$name` is bound by what the gateway sends."""

    def __init__(self, system: GatewaySystem, stack: AsyncExitStack, *, is_node: bool) -> None:
        self.system = system
        self.stack = stack
        self.is_node = is_node
        self.values: dict[str, Any] = {}
        self.jobs: dict[int, dict[str, Any]] = {}
        self.socket: Any = None

    async def connect(self) -> None:
        opening = node_socket(self.system) if self.is_node else producer(self.system)
        self.socket = await self.stack.enter_async_context(opening)

    async def replay(self, line: str) -> None:
        way, _, rest = line.partition(" ")
        if way == ">":
            await self._send(rest)
        else:
            await self._expect(rest)

    async def _send(self, rest: str) -> None:
        chunk = _CHUNK.fullmatch(rest)
        if rest == "disconnect":
            self.socket.connection.transport.abort()
            await self.connect()
        elif chunk:
            await self.socket.chunk(int(chunk[1]), TENTH)
        else:
            await self.socket.connection.send(json.dumps(self._filled(json.loads(rest))))

    async def _expect(self, rest: str) -> None:
        audio = _AUDIO.fullmatch(rest)
        if rest.startswith("close "):
            assert await self.socket.closed() == int(rest.split()[1])
        elif audio:
            assert await self.socket.audio_of(self.jobs[int(audio[1])])
        else:
            expected = json.loads(rest)
            if expected["type"] == "ack":  # one for fewer chunks may come before
                await self.socket.stored(expected["next_seq"])
                return
            frame = await self.socket.expect(expected["type"])
            if frame["type"] == "job":
                self.jobs[frame["ref"]] = frame
            for name, value in expected.items():
                is_bound = isinstance(value, str) and value.startswith("$")
                wanted = self.values.setdefault(value, frame[name]) if is_bound else value
                assert frame[name] == wanted, (rest, frame)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._filled(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._filled(each) for each in value]
        return self.values.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=["session", "resumed", "node"])
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_dialogue_of_the_page_holds(server: Server, cell: str, dialogue: str) -> None:
    is_node = '"register"' in dialogue
    async with gateway_system(server.url, cell) as system, AsyncExitStack() as stack:
        if not is_node:
            await stack.enter_async_context(serving(system.es, echo()))
        replay = Dialogue(system, stack, is_node=is_node)
        await replay.connect()
        for number, line in enumerate(dialogue.strip().splitlines()):
            await replay.replay(line)
            if is_node and number == 1:  # somebody speaks
                session = await stack.enter_async_context(system.es.session("acme", "en", ["es"]))
                session.detach()
                await session.append(TENTH, end_of_utterance=True)


def test_every_frame_has_a_schema_and_a_type_of_its_own() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]
    for name, union in SOCKETS.items():
        frames = get_args(union)
        tags = [frame.__struct_config__.tag for frame in frames]
        assert len(set(tags)) == len(tags), name
        for frame, tag in zip(frames, tags, strict=True):
            assert schema[frame.__name__]["properties"]["type"] == {"enum": [tag]}
            if name.endswith("client"):
                assert schema[frame.__name__]["additionalProperties"] is False
