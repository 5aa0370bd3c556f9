"""Tokens that expire soon, or have expired."""

from __future__ import annotations

import time

from eventsched.tokens import issue
from tests.gateway.gateways import GatewaySystem


def expiring(system: GatewaySystem, seconds: int) -> str:
    """A producer's token that expires in so many seconds."""
    now_s = time.time() + seconds - 60
    return issue(
        system.key, role="producer", tenant="acme", subject="test", seconds=60, now_s=now_s
    )
