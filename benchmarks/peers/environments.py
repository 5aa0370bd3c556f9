"""One environment for each peer, since their requirements are in conflict.

Owns: creating the environments below benchmarks/out (ignored by git), and their packages.
Never does: run a peer (programs.py). Read next: requirements/, package.json, harness.py.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE.parent / "out" / "peers"
INSTALL_S = 300.0
PYTHON_PEERS = {
    "taskiq": "taskiq",
    "dramatiq": "dramatiq",
    "saq": "saq",
    "arq": "arq",
    "streaq": "streaq",
    "docket": "pydocket",
}
"""Name -> name of the package."""
BULLMQ = "bullmq"
NAMES = (*PYTHON_PEERS, BULLMQ)


class NoPeer(Exception):
    """Raised when a peer cannot be installed; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Peer:
    """An installed peer."""

    name: str
    version: str
    settings: str
    """Description of its settings, from the docstring of its program."""
    program: tuple[str, ...]
    """Command to run; the argument `work` or `produce` is appended."""
    folder: Path
    """Working directory of the command."""


def prepare(name: str) -> Peer:
    """Install the peer unless it is installed, and return it. Raises NoPeer."""
    return _bullmq() if name == BULLMQ else _python(name)


def _python(name: str) -> Peer:
    requirements = (HERE / "requirements" / f"{name}.txt").read_text()
    folder = OUT / name
    python = folder / "bin" / "python"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements:
        shutil.rmtree(folder, ignore_errors=True)
        _install_python(name, folder, python)
        installed.write_text(requirements)
    package = PYTHON_PEERS[name]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    version = _run(name, str(python), "-c", code).strip()
    source = HERE / f"peer_{name}.py"
    docs = ast.get_docstring(ast.parse(source.read_text())) or ""
    return Peer(name, version, settings_in(docs), (str(python), source.name), HERE)


def _install_python(name: str, folder: Path, python: Path) -> None:
    requirements = str(HERE / "requirements" / f"{name}.txt")
    if uv := shutil.which("uv"):
        _run(name, uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(name, uv, "pip", "install", "--quiet", "--python", str(python), "-r", requirements)
    else:
        _run(name, sys.executable, "-m", "venv", str(folder))
        _run(name, str(python), "-m", "pip", "install", "--quiet", "-r", requirements)


def _bullmq() -> Peer:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        raise NoPeer(f"{BULLMQ}: node and npm are not on PATH")
    folder, source = OUT / BULLMQ, HERE / f"peer_{BULLMQ}.mjs"
    folder.mkdir(parents=True, exist_ok=True)
    manifest, installed = (HERE / "package.json").read_text(), folder / "package.json"
    is_installed = installed.exists() and installed.read_text() == manifest
    if not is_installed or not (folder / "node_modules").is_dir():
        installed.write_text(manifest)
        _run(BULLMQ, npm, "install", "--no-audit", "--no-fund", "--silent", cwd=folder)
    shutil.copy(source, folder)  # node searches for packages in the folder of the module
    package = json.loads((folder / "node_modules" / BULLMQ / "package.json").read_text())
    settings = settings_in(source.read_text().partition("*/")[0])
    return Peer(BULLMQ, package["version"], settings, (node, source.name), folder)


def settings_in(docs: str) -> str:
    """Return the paragraph that starts with `Settings:`, as one line. Raises NoPeer."""
    match = re.search(r"Settings: (.*?)(?:\n[ *]*\n|\Z)", docs, re.DOTALL)
    if match is None:
        raise NoPeer("a peer's program must describe its settings")
    return " ".join(re.sub(r"\n *\*", "\n", match[1]).split())


def _run(name: str, *command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S, check=True
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise NoPeer(f"{name}: {lines[-1] if lines else 'could not be installed'}") from error
    except subprocess.TimeoutExpired as error:
        raise NoPeer(f"{name}: not installed within {INSTALL_S:.0f} s") from error
    return done.stdout
