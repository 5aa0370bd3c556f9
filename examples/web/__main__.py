"""Run the example: a server with all roles, a gateway, a node that recognises English, the page.

    python -m examples.web [--port 8000]

Owns: the processes and their order. In production each of them is a service of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from eventsched.tokens import TokenKey
from eventsched.tokens.keys import add_public_key

NODE = "eventsched.demo.speech.nodes:node"
END_S = 20


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `eventsched WORDS` while the block lasts."""
    command = [sys.executable, "-m", "eventsched.cli", "--quiet", "--json", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(END_S)
        assert process.stdout is not None
        process.stdout.close()


def first_json(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The line that a service prints once it serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit("a process has ended; its message is above")
    reply: dict[str, Any] = json.loads(line)
    return reply


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.web", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    page = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        key, public = Path(folder) / "token.key", Path(folder) / "keys.json"
        signing = TokenKey.generate()
        signing.create(key)
        add_public_key(public, signing)
        data = ("--data", str(Path(folder) / "data"))
        up = stack.enter_context(running(*data, "up"))
        os.environ["EVENTSCHED_URL"] = first_json(up)["url"]  # the other processes use this server
        listen = ("--listen", "127.0.0.1:0", "--token-keys", str(public), "--origin", page)
        gateway = stack.enter_context(running("run", "gateway", *listen))
        os.environ["GATEWAY"] = first_json(gateway)["gateway"]
        os.environ["TOKEN_KEY"] = str(key)
        stack.enter_context(running("node", NODE))
        sys.stdout.write(f"open {page} and speak English; Ctrl-C ends it\n")
        sys.stdout.flush()
        uvicorn.run("examples.web.app:app", host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
