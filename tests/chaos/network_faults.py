"""Faults of the network: connections cut, delayed, closed and stalled at one proxy.

Owns: the choice of the proxy, setting and clearing its faults. Read next: proxy.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import anyio

from tests.chaos.faults import Fault
from tests.chaos.proxy import Proxy


class ProxyFaults:
    """Causes faults at the proxies."""

    def __init__(self, proxies: Sequence[Proxy], done: Counter[str]) -> None:
        self._proxies = proxies
        self._done = done
        self.actions: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "cuts": self._cut,
            "delay": self._delay,
            "blackout": self._close,
            "stall": self._stall,
        }

    def _pick(self, fault: Fault) -> Proxy:
        proxy = self._proxies[int(fault.pick * len(self._proxies))]
        self._done[f"{fault.kind} at {proxy.name}"] += 1
        return proxy

    async def _cut(self, fault: Fault) -> None:
        """Cut connections before and after the server has executed a call, and within a reply."""
        faults = self._pick(fault).faults
        faults.cut_before = faults.cut_after = 0.002 + 0.02 * fault.strength
        faults.cut_within = faults.cut_after / 2
        await anyio.sleep(fault.seconds)
        faults.cut_before = faults.cut_after = faults.cut_within = 0.0

    async def _delay(self, fault: Fault) -> None:
        faults = self._pick(fault).faults
        faults.delay_s = 0.002 + 0.08 * fault.strength
        await anyio.sleep(fault.seconds)
        faults.delay_s = 0.0

    async def _close(self, fault: Fault) -> None:
        proxy = self._pick(fault)
        proxy.faults.is_open = False
        proxy.cut_all()
        await anyio.sleep(fault.seconds)
        proxy.faults.is_open = True

    async def _stall(self, fault: Fault) -> None:
        """Forward nothing, in some faults for longer than the timeout of a client."""
        faults = self._pick(fault).faults
        faults.is_stalled = True
        await anyio.sleep(fault.seconds)
        faults.is_stalled = False
