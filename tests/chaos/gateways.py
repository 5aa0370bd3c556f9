"""The gateways of a run, and the proxy in front of them.

Owns: two gateways at ports of the loopback interface, one address that leads to either, and tokens.
Must not: kill a gateway (process_faults.py), or cut a connection (network_faults.py).
Read next: gateway_guests.py and gateway_worker.py (who comes through them).
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from eventsched.server.launch import free_ports
from eventsched.tokens import TokenKey, issue
from eventsched.tokens.keys import add_public_key
from tests.chaos.proxy import LOOPBACK, Proxy

GATEWAYS = 2
_TOKEN_S = 7_200


class Gateways:
    """Addresses of the gateways, and what their clients need."""

    def __init__(self, folder: Path, seed: int) -> None:
        port, *self._ports = free_ports(1 + GATEWAYS)
        self.proxy = Proxy("gateways", folder, self._ports, Random(f"gateways-{seed}"), port=port)
        self.url = f"http://{LOOPBACK}:{port}"
        self._key = TokenKey.generate()
        self._key_file = folder / "token-keys.json"
        add_public_key(self._key_file, self._key)

    @property
    def addresses(self) -> list[str]:
        """Of the gateways themselves, behind the proxy."""
        return [f"{LOOPBACK}:{port}" for port in self._ports]

    def arguments(self, number: int) -> list[str]:
        """The arguments of the command `run` for one gateway."""
        listen = f"{LOOPBACK}:{self._ports[number]}"
        return ["gateway", "--listen", listen, "--token-keys", str(self._key_file)]

    def token(self, role: str) -> str:
        return issue(self._key, role=role, tenant="*", subject="chaos", seconds=_TOKEN_S)
