"""Nodes for tests, written as users write them: `eventsched node tests.cli.workers:echo`."""

from __future__ import annotations

import eventsched
from tests.unit.controls import NASTY

echo = eventsched.Node("echo-1", sources=["en"], targets=["es", "fr"], slots=2, version="echo 1")
idle = eventsched.Node("idle-1", sources=["en"], targets=["pt"])
bare = eventsched.Node("bare-1", sources=["en"], targets=["es"])
hostile = eventsched.Node("hostile-1", sources=["en"], targets=["it"])
not_a_node = "echo"


@echo.job
async def repeat(job: eventsched.Job) -> eventsched.Result:
    """Return the number of bytes of the audio; fail for French."""
    if job.target == "fr":
        raise eventsched.JobError("NO_FRENCH") from ValueError("no model for French")
    await job.partial(source_text="…")
    size = len(await job.audio())
    return eventsched.Result(source_text=f"{size} bytes", text=f"{size} octetos")


@idle.job
async def never(job: eventsched.Job) -> eventsched.Result:
    raise AssertionError(f"no test asks for Portuguese: {job.key}")


@hostile.job
async def steer(job: eventsched.Job) -> eventsched.Result:
    """Return texts with control characters of a terminal."""
    return eventsched.Result(source_text=f"{NASTY} [red]a[/]", text=NASTY)
