"""An environment for each peer: their requirements contradict each other's and our own.

Owns: making them below benchmarks/out (git-ignored), once, and what is installed in them.
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
"""Name -> what it is called where it comes from."""
BULLMQ = "bullmq"
NAMES = (*PYTHON_PEERS, BULLMQ)


class NoPeer(Exception):
    """Raised when a peer cannot be set up here; says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that is installed."""

    name: str
    version: str
    settings: str
    """In words, as its program states them."""
    program: tuple[str, ...]
    """What to run; `work` or `produce` comes behind."""
    folder: Path
    """Where to run it."""


def prepare(name: str) -> Peer:
    """The peer, installed unless it is. Raises NoPeer."""
    return _bullmq() if name == BULLMQ else _python(name)


def _python(name: str) -> Peer:
    wanted = (HERE / "requirements" / f"{name}.txt").read_text()
    folder = OUT / name
    python = folder / "bin" / "python"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _install_python(name, folder, python)
        installed.write_text(wanted)
    package = PYTHON_PEERS[name]
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    version = _run(name, str(python), "-c", asked).strip()
    source = HERE / f"peer_{name}.py"
    docs = ast.get_docstring(ast.parse(source.read_text())) or ""
    return Peer(name, version, settings_in(docs), (str(python), source.name), HERE)


def _install_python(name: str, folder: Path, python: Path) -> None:
    wanted = str(HERE / "requirements" / f"{name}.txt")
    if uv := shutil.which("uv"):
        _run(name, uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(name, uv, "pip", "install", "--quiet", "--python", str(python), "-r", wanted)
    else:
        _run(name, sys.executable, "-m", "venv", str(folder))
        _run(name, str(python), "-m", "pip", "install", "--quiet", "-r", wanted)


def _bullmq() -> Peer:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        raise NoPeer(f"{BULLMQ}: node and npm are not on PATH")
    folder, source = OUT / BULLMQ, HERE / f"peer_{BULLMQ}.mjs"
    folder.mkdir(parents=True, exist_ok=True)
    wanted, there = (HERE / "package.json").read_text(), folder / "package.json"
    if not there.exists() or there.read_text() != wanted or not (folder / "node_modules").is_dir():
        there.write_text(wanted)
        _run(BULLMQ, npm, "install", "--no-audit", "--no-fund", "--silent", cwd=folder)
    shutil.copy(source, folder)  # a module finds its packages beside itself
    told = json.loads((folder / "node_modules" / BULLMQ / "package.json").read_text())
    settings = settings_in(source.read_text().partition("*/")[0])
    return Peer(BULLMQ, told["version"], settings, (node, source.name), folder)


def settings_in(docs: str) -> str:
    """The paragraph that begins with `Settings:`, as one line."""
    found = re.search(r"Settings: (.*?)(?:\n[ *]*\n|\Z)", docs, re.DOTALL)
    if found is None:
        raise NoPeer("a peer's program must state its settings")
    return " ".join(re.sub(r"\n *\*", "\n", found[1]).split())


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
