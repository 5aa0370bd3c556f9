"""The report of a session by a gateway."""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path

import pytest

from eventsched.archive.proof import check_proof
from eventsched.archive.signing import decode_public
from eventsched.gateway import session_report
from eventsched.schema import keys
from eventsched.server.testing import LocalServer
from tests.gateway.gateways import gateway_system
from tests.gateway.sealing import Sealing
from tests.gateway.test_events import speak
from tests.gateway.test_producer import echo
from tests.gateway.test_session_files import until_result
from tests.systems import serving


async def test_a_report_has_proofs_that_hold_without_the_archive(
    own_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of its own writes it, with the cells that the server has, and without keys."""
    monkeypatch.setenv("EVENTSCHED_KEYS", str(tmp_path / "keys"))
    own_server.call("SET", keys.CELLS, "c0")
    archive = Sealing(tmp_path / "archive")
    async with (
        gateway_system(own_server.url, "c0") as system,
        serving(system.es, echo()),
    ):
        session = await speak(system)
        await until_result(system, session)
        await archive.seal(system)
        path = f"/v1/sessions/{session}/report"
        reply = await system.get(path, system.token("auditor"))
        assert reply.status_code == 200, reply.text
        assert f'filename="{session}.html"' in reply.headers["content-disposition"]
        assert "sandbox" in reply.headers["content-security-policy"]
        files = re.findall(r'"data:application/octet-stream;base64,([^"]+)"', reply.text)
        proofs, public = sorted(map(b64decode, files), key=len, reverse=True)
        for line in proofs.splitlines(keepends=True):
            assert check_proof(line, decode_public(public, tmp_path), "proof").is_key_checked
        missing = await system.get("/v1/sessions/none/report", system.token("auditor"))
        assert missing.status_code == 404
        hidden = await system.get(path, system.token("auditor", texts=False))
        assert hidden.status_code == 403
        monkeypatch.setattr(session_report, "SECONDS_MAX", 0.01)
        late = await system.get(path, system.token("auditor"))
        assert late.status_code == 400
        assert late.json()["error"]["remedy"] == "run the command"
