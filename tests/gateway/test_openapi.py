"""The OpenAPI document has every route with its roles, parameters, and the form of its replies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventsched.gateway.openapi import PARAMETERS, document
from eventsched.gateway.routes import ROUTES
from eventsched.tokens.claims import ROLES
from tests.gateway.gateways import gateway_system
from tests.gateway.sealing import Sealing
from tests.gateway.test_events import speak
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import serving, until

DOCUMENT = document(ROUTES)
LEFT_OUT = {
    "/v1/login",  # needs a code, which tests/gateway/test_login.py has
}


def test_every_route_has_its_operation_roles_and_parameters() -> None:
    for route in ROUTES:
        path = DOCUMENT["paths"][re.sub(r":path\}", "}", route.path)]
        operation = path["get" if route.method == "WS" else route.method.lower()]
        prefix = "x-socket-" if route.method == "WS" else "x-"
        access = route.access
        assert operation[f"{prefix}roles"] == (sorted(access.roles) if access else [])
        assert operation[f"{prefix}scope"] == (access.scope if access else "public")
        assert bool(operation["security"]) == (access is not None)
        named = {each["name"] for each in operation["parameters"] if each["in"] == "query"}
        assert named >= set(route.parameters)
        placed = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert placed == set(re.findall(r"\{(\w+)", route.path))
        assert ("requestBody" in operation) == (route.body is not None)
        done = {"WS": "101"}.get(route.method, "200")
        assert operation["responses"][done]["description"]
        is_json = route.method != "WS" and route.reply is not None
        content = operation["responses"][done].get("content", {})
        assert not is_json or "schema" in content["application/json"]
        assert is_json or list(content) == ([] if route.method == "WS" else [route.content])
        assert operation["summary"].endswith(".")
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    identifiers = [each["operationId"] for each in operations]
    assert len(set(identifiers)) == len(identifiers)
    assert PARAMETERS.keys() == {
        each["name"]
        for operation in operations
        for each in operation["parameters"]
        if each["in"] != "header"
    }


def test_every_reference_is_defined() -> None:
    text = json.dumps(DOCUMENT)
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert named <= DOCUMENT["components"]["schemas"].keys()
    assert DOCUMENT["openapi"].startswith("3.1.")


def path_of(path: str, session: str, cell: str) -> str:
    values = {"kind": "session", "id": session, "cell": cell}
    if path.startswith("/v1/jobs/"):
        values["id"] = f"{session}:0:es"
    if path.startswith("/v1/nodes/"):
        values["id"] = f"{cell}.n1"
    return re.sub(r"\{(\w+)(:path)?\}", lambda match: values[match[1]], path)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_replies_have_the_form_of_the_document(
    server: Server, cell: str, tmp_path: Path
) -> None:
    async with gateway_system(server.url, cell) as system, serving(system.es, echo()):
        session = await speak(system)
        token = system.token("operator")

        async def is_folded() -> bool:
            reply = await system.get(f"/v1/jobs/{session}:0:es/why", token)
            return reply.status_code == 200

        await until("the job is in the log", is_folded)
        await Sealing(tmp_path / "archive").seal(system)
        for route in ROUTES:
            if route.method != "GET" or route.reply is None or route.path in LEFT_OUT:
                continue
            reply: Any = await system.get(path_of(route.path, session, cell), token)
            assert reply.status_code == 200, (route.path, reply.text)
            msgspec.json.decode(reply.content, type=route.reply)
        served = await system.json("/v1/openapi.json", system.token("producer", "acme"))
        assert served == json.loads(json.dumps(DOCUMENT))
    assert set(ROLES) == {role for route in ROUTES if route.access for role in route.access.roles}
