"""The threads of speech detectors: one tenant leaves one of them for the others."""

from __future__ import annotations

import threading

import anyio

from eventsched.gateway.detector_threads import DetectorThreads
from eventsched.gateway.tenant_turns import TenantTurns


async def test_a_tenant_that_keeps_its_threads_busy_delays_no_other() -> None:
    threads, hold = DetectorThreads(2), threading.Event()
    started: list[str] = []

    def detect(name: str) -> None:
        started.append(name)
        if name == "flood":
            hold.wait(60)

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(threads.run, "flood", detect, "flood")
        await anyio.wait_all_tasks_blocked()
        try:
            with anyio.fail_after(30):
                await threads.run("acme", detect, "acme")
            assert started == ["flood", "acme"]
        finally:
            hold.set()
    assert started.count("flood") == 12


async def test_one_core_serves_all_tenants() -> None:
    threads = DetectorThreads(1)
    assert await threads.run("acme", len, "abc") == 3


async def test_a_tenant_without_turns_takes_no_memory() -> None:
    turns = TenantTurns(1)
    for number in range(100):
        async with turns.turn(f"t{number}"):
            assert turns.count(f"t{number}") == 1
    assert turns._queues == {}
