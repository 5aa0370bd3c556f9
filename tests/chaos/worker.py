"""One node process of a chaos run.

    python -m tests.chaos.worker URL NAME SLOTS LANGS RTF SPEED KIND [METRICS]

Owns: a handler that takes rtf times the duration of the audio, divided by speed, and returns a
digest of exactly the audio of its job. KIND is `async` or `threads`: how the handler runs. METRICS
is an address for its metrics, which a process of the same name may still have.
Read next: speech.py.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack, suppress

import anyio

import eventsched
from eventsched.logs import configure_logs
from eventsched.telemetry.exposition import metrics_listening
from tests.chaos import speech

SUPERSEDED = 3
"""Exit code of a process that a newer process of its name has superseded."""


def make(name: str, slots: int, langs: list[str], pace: float, kind: str) -> eventsched.Node:
    node = eventsched.Node(name, sources=["en"], targets=langs, slots=slots, version=kind)
    if kind == "threads":

        @node.job
        def held_in_a_thread(job: eventsched.BlockingJob) -> eventsched.Result:
            started_ms, audio = time.time() * 1000, job.audio()
            time.sleep(speech.holds_s(job.key, job.ms / 1000 * pace))
            return _answer(job.key, job.attempt, started_ms, audio)

    else:

        @node.job
        async def held(job: eventsched.Job) -> eventsched.Result:
            started_ms, audio = time.time() * 1000, await job.audio()
            await anyio.sleep(speech.holds_s(job.key, job.ms / 1000 * pace))
            return _answer(job.key, job.attempt, started_ms, audio)

    return node


def _answer(job: str, attempt: int, started_ms: float, audio: bytes) -> eventsched.Result:
    if speech.is_silent(job):
        raise eventsched.NoSpeechError
    if attempt == 1 and speech.fails_first(job):
        raise eventsched.JobError("CHAOS", retryable=True)
    return eventsched.Result(text=speech.digest(audio, 0), source_text=f"{started_ms:.3f}")


async def _drain_on_signal(node: eventsched.Node) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            node.drain(within_s=2)


async def main(*arguments: str) -> int:
    """Return 0 when drained, 3 when superseded, 1 when the server is unavailable at first."""
    url, name, slots, langs, rtf, speed, kind, *metrics = arguments
    node = make(name, int(slots), langs.split(","), float(rtf) / float(speed), kind)
    with ExitStack() as stack:
        for address in metrics:
            with suppress(eventsched.InvalidMessage):
                stack.enter_context(metrics_listening(address))
        return await _serve(node, url, name)


async def _serve(node: eventsched.Node, url: str, name: str) -> int:
    code = 0
    try:
        async with eventsched.connect(url) as es, anyio.create_task_group() as tasks:
            sys.stdout.write(f"ready: {name}\n")
            sys.stdout.flush()
            tasks.start_soon(_drain_on_signal, node)
            await node.run(es)
            tasks.cancel_scope.cancel()
    except* eventsched.NodeSuperseded:
        code = SUPERSEDED
    except* eventsched.ServerUnavailable:
        code = 1
    return code


if __name__ == "__main__":
    configure_logs(0, quiet=False, is_service=True)
    sys.exit(anyio.run(main, *sys.argv[1:]))
