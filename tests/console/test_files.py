"""The files of the console: the policy of the page, a base path, and a gateway without a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsched.gateway.console import NOT_BUILT, POLICY
from eventsched.gateway.console_files import read_console
from tests.gateway.gateways import gateway_system
from tests.server_kinds import Server

DIRECTIVES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder with the files that a build has."""
    (tmp_path / "static" / "assets").mkdir(parents=True)
    (tmp_path / "static" / "index.html").write_text("<title>eventsched</title>")
    (tmp_path / "static" / "assets" / "index-1.js").write_text("export {}")
    (tmp_path / "outside.txt").write_text("outside")
    return tmp_path / "static"


def test_a_folder_without_a_page_is_no_build(tmp_path: Path) -> None:
    (tmp_path / "icon.svg").write_text("<svg/>")
    assert read_console(tmp_path) == {}
    assert read_console(tmp_path / "none") == {}


def test_the_policy_allows_nothing_of_other_origins_and_nothing_inline() -> None:
    parts = (part.strip().partition(" ") for part in POLICY.split(";"))
    assert {name: sources for name, _, sources in parts} == DIRECTIVES


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_gateway_serves_the_build_with_its_policy(
    server: Server, cell: str, build: Path
) -> None:
    async with gateway_system(server.url, cell, roles=(), base_path="/speech") as system:
        system.gateway.console = read_console(build)
        page = await system.get("/console/")
        assert (page.status_code, page.text) == (200, "<title>eventsched</title>")
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"] == POLICY
        assert page.headers["cache-control"] == "no-cache"
        asset = await system.get("/console/assets/index-1.js")
        assert asset.headers["content-type"].startswith("text/javascript")
        assert "immutable" in asset.headers["cache-control"]
        assert asset.headers["content-security-policy"] == POLICY
        for path in ("none.js", "assets", "..%2foutside.txt", "%2e%2e/outside.txt", "/etc/passwd"):
            assert (await system.get(f"/console/{path}")).status_code == 404, path
        without_slash = await system.get("/console")
        assert without_slash.status_code == 307
        assert without_slash.headers["location"].endswith("/speech/console/")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_gateway_without_a_build_says_so_in_one_line(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, roles=()) as system:
        system.gateway.console = {}
        reply = await system.get("/console/")
        assert (reply.status_code, reply.text) == (404, NOT_BUILT)
        assert reply.text.count("\n") == 1
