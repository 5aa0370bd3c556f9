"""What an auditor reads of an archive by a gateway: segments, verification, proofs, SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from eventsched.archive.checkpoints import read_checkpoint
from eventsched.archive.proof import check_proof
from eventsched.archive.signing import read_public
from tests.gateway.gateways import GatewaySystem, bearer, gateway_system
from tests.gateway.sealing import Sealing
from tests.gateway.test_events import Stream, speak
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import serving, until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


class Audited:
    """A system whose log is sealed."""

    def __init__(self, system: GatewaySystem, archive: Sealing, session: str) -> None:
        self.system = system
        self.archive = archive
        self.session = session
        self.cell = session.partition(".")[0]

    async def query(self, sql: str, **claims: Any) -> httpx.Response:
        headers = bearer(self.system.token("auditor", **claims))
        url = f"{self.system.url}/v1/archive/query"
        return await self.system.http.post(url, json={"sql": sql}, headers=headers)

    async def verify(self) -> list[dict[str, Any]]:
        """The events of a verification."""
        url, headers = f"{self.system.url}/v1/archive/verify", bearer(self.system.token("auditor"))
        events: list[dict[str, Any]] = []
        async with self.system.http.stream("GET", url, headers=headers) as reply:
            stream = Stream(reply)
            while not events or events[-1]["event"] not in ("report", "failed"):
                events.append(await stream.event())
        return events


@asynccontextmanager
async def audited(server: Server, cell: str, path: Path) -> AsyncIterator[Audited]:
    roles = ("dispatcher", "projector")
    async with gateway_system(server.url, cell, roles=roles) as system, serving(system.es, echo()):
        archive = Sealing(path / "archive")
        session = await speak(system)
        await archive.seal(system)
        yield Audited(system, archive, session)


async def test_an_auditor_reads_segments_a_checkpoint_and_a_proof(
    server: Server, cell: str, tmp_path: Path
) -> None:
    async with audited(server, cell, tmp_path) as each:
        system, token = each.system, each.system.token("auditor")
        (head,) = await system.json("/v1/archive", token)
        assert len(head["root"]) == 64
        assert head["key"]
        listed = await system.json(f"/v1/archive/{cell}/segments", token)
        assert [segment["n"] for segment in listed["segments"]] == [0]
        assert listed["segments"][0]["events"] == head["events"]
        assert listed["next"] == ""
        assert (await system.get("/v1/archive/none/segments", token)).status_code == 404
        for after in ("x", "\u0663", "9" * 5_000):
            reply = await system.get(f"/v1/archive/{cell}/segments", token, after=after)
            assert reply.status_code == 400
            assert "after" in reply.text
        public = each.archive.folder.public
        checkpoint = await system.get("/v1/archive/checkpoint", token)
        (tmp_path / "checkpoint.json").write_bytes(checkpoint.content)
        (stored,) = read_checkpoint(tmp_path / "checkpoint.json", public)
        assert stored.head.root == head["root"]
        proof = await system.get("/v1/archive/proof", token, event=head["last"])
        assert check_proof(proof.content, public, "proof").proof.id == head["last"]
        for event, status in (("1-0", 404), ("x", 400)):
            reply = await system.get("/v1/archive/proof", token, event=event)
            assert reply.status_code == status
        for event, reason in (
            ("1-0", "has no event 1-0"),
            (
                "9" * 13 + "-0",
                f"not archived yet: the archive of cell {cell} reaches to {head['last']}",
            ),
        ):
            reply = await system.get("/v1/archive/proof", token, event=event)
            assert reply.status_code == 404
            assert reason in reply.json()["error"]["message"]
        key = await system.get("/v1/archive/public-key", token)
        assert key.content == (each.archive.path / "archive.pub").read_bytes()
        (tmp_path / "archive.pub").write_bytes(key.content)
        assert read_public(tmp_path / "archive.pub") == public
        hidden = system.token("auditor", texts=False)
        assert (await system.get("/v1/archive/proof", hidden, event="1-0")).status_code == 403


async def test_a_verification_reports_progress_and_what_a_change_affects(
    server: Server, cell: str, tmp_path: Path
) -> None:
    async with audited(server, cell, tmp_path) as each:
        *progress, report = await each.verify()
        assert progress[-1]["verified"] == progress[-1]["total"] > 0
        assert report["is_clean"]
        assert report["verdict"].startswith("consistent, key not checked")
        assert not report["is_key_checked"]
        assert report["zone"]
        (file,) = (each.archive.path / cell).glob("*.events.parquet")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        *_, report = await each.verify()
        assert not report["is_clean"]
        problem = report["problems"][0]
        assert "not the file that was sealed" in problem["what"]
        assert "not those that were recorded" in problem["means"]
        assert each.session in problem["affects"]
        each.system.gateway.is_verifying = True
        token = each.system.token("auditor")
        assert (await each.system.get("/v1/archive/verify", token)).status_code == 429


async def test_no_argument_of_a_process_shows_a_statement(
    server: Server, cell: str, tmp_path: Path
) -> None:
    """All users of the machine can read the arguments of a process."""
    seen: set[str] = set()
    async with audited(server, cell, tmp_path) as each:
        archive = f"--archive={each.archive.folder.path}"

        def is_seen() -> bool:
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # the process has ended
                    words = file.read_bytes().decode(errors="replace").split("\0")
                    if archive in words:
                        seen.update(words)
            return "query" in seen

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(each.query, "SELECT 'what an auditor looks for' AS text")
            await until("the process runs", is_seen)
    assert not any("looks for" in word for word in seen)


async def test_a_query_reads_the_archive_and_nothing_else(
    server: Server, cell: str, tmp_path: Path
) -> None:
    async with audited(server, cell, tmp_path) as each:
        reply = await each.query("SELECT session, tenant FROM sessions")
        assert reply.status_code == 200, reply.text
        assert reply.json() == {"rows": [{"session": each.session, "tenant": "acme"}]}
        for sql, message in (
            ("SELECT * FROM nothing", "nothing"),
            ("DELETE FROM events", "SELECT"),
            ("SELECT * FROM read_text('/etc/passwd')", ""),
            ("SELECT * FROM range(2000)", "1,000 rows"),
            ("SELECT 1\0", "no NUL character"),
        ):
            refused = await each.query(sql)
            assert refused.status_code == 400, (sql, refused.text)
            error = msgspec.json.decode(refused.content)["error"]
            assert error["field"] == "sql"
            assert message in error["message"]
        long = f"SELECT length('{'é' * 19_000}') AS n"
        assert (await each.query(long)).json() == {"rows": [{"n": 19_000}]}
        assert (await each.query("SELECT 1", texts=False)).status_code == 403
        each.system.gateway.archive = None
        assert (await each.query("SELECT 1")).status_code == 404
