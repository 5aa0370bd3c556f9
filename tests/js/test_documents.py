"""The JavaScript of the documents and examples runs, and the package has what it lists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.gateway.gateways import gateway_system
from tests.gateway.test_producer import echo
from tests.js.programs import CLIENT, ROOT, Script, node, script
from tests.server_kinds import Server
from tests.systems import serving

SNIPPET = re.compile(r"```js\n(.*?)```", re.DOTALL)
SECOND = bytes(range(1, 101)) * 320
NOT_PUBLISHED = {
    ".npmrc", "README.md", "conformance.mjs", "package-lock.json", "package.json", "tsconfig.json",
}  # fmt: skip
"""Files of the folder that `files` does not list; npm adds README.md and package.json itself."""
IMPORTED = re.compile(r"""from "(?:eventsched|\./clients/js/eventsched\.js)";""")


def program(document: Path, number: int, folder: Path) -> Path:
    """A snippet of a document as a file that imports the client from here."""
    code = SNIPPET.findall(document.read_text(encoding="utf-8"))[number]
    path = folder / "program.mjs"
    module = (CLIENT / "eventsched.js").as_uri()
    changed, count = IMPORTED.subn(f'from "{module}";', code)
    assert count == 1
    path.write_text(changed, encoding="utf-8")
    return path


@pytest.mark.parametrize("document", ["README.md", "clients/js/README.md"])
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_the_first_program_of_a_document_speaks(
    server: Server, cell: str, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech.raw").write_bytes(SECOND)
    file = program(ROOT / document, 0, tmp_path)
    async with gateway_system(server.url, cell) as system, serving(system.es, echo()):
        variables = {"GATEWAY": system.url, "TOKEN": system.token("producer", "acme")}
        async with script(file, **variables) as speaking:
            assert speaking.process.stdout is not None
            output = (await speaking.process.stdout.read()).decode().splitlines()
            assert await speaking.ended() == 0
    assert output[-1] == "0 es result 1000 ms"


async def test_a_document_serves(server: Server, cell: str, tmp_path: Path) -> None:
    await check_node(server, cell, program(CLIENT / "README.md", 2, tmp_path), "bytes")


async def test_the_example_of_a_node_serves(server: Server, cell: str) -> None:
    await check_node(server, cell, ROOT / "examples" / "js" / "node.mjs", "1000 ms, -2 dB")


async def check_node(server: Server, cell: str, file: Path, text: str) -> None:
    """Speak to a node in JavaScript, then drain it."""
    async with gateway_system(server.url, cell) as system:
        variables = {"GATEWAY": system.url, "TOKEN": system.token("node")}
        async with (
            script(file, **variables) as serving_node,
            system.es.session("acme", "en", ["es"]) as session,
        ):
            session.detach()
            await session.append(SECOND, end_of_utterance=True)
            outcome = await anext(session.results())
            assert text in getattr(outcome, "text", "")
            await drained(serving_node)


async def drained(serving_node: Script) -> None:
    serving_node.process.terminate()
    assert await serving_node.ended() == 0


def test_the_package_lists_its_files_and_needs_no_other_package() -> None:
    package = json.loads((CLIENT / "package.json").read_text(encoding="utf-8"))
    assert not package.keys() & {"dependencies", "peerDependencies", "optionalDependencies"}
    files = {path.name for path in CLIENT.iterdir() if path.is_file()}
    assert files - set(package["files"]) <= NOT_PUBLISHED
    for name in package["files"]:
        imported = re.findall(r'from "\./([\w.]+)"', (CLIENT / name).read_text(encoding="utf-8"))
        assert set(imported) <= set(package["files"])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{package["version"]}"' in project


def test_the_types_name_what_the_modules_export() -> None:
    code = (
        f"import('{(CLIENT / 'eventsched.js').as_uri()}').then(m => console.log(Object.keys(m)+''))"
    )
    done = subprocess.run([node(), "-e", code], capture_output=True, text=True, check=True)
    types = (CLIENT / "eventsched.d.ts").read_text(encoding="utf-8")
    declared = re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE)
    assert sorted(done.stdout.strip().split(",")) == sorted(declared)
