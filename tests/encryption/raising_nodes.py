"""Nodes whose handlers fail while audio and recognised text are in their variables.

Owns: one node for each way to run a handler and to fail; for `test_no_speech_in_logs`. No source
line has the text: a traceback shows source lines. `eventsched node …:NAME` runs a node, and this
module as a program runs the node `library`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from functools import partial

import anyio
import structlog

import eventsched
from eventsched.schema.keys import complete
from tests.systems import is_registered, until

TEXT_LENGTH = 60


def text_of(audio: bytes) -> str:
    """What is said in this audio: letters that follow from its first bytes."""
    return "".join(chr(97 + byte % 26) for byte in audio[:TEXT_LENGTH])


@dataclasses.dataclass
class Decoder:
    """A model that shows its state when it is printed."""

    audio: bytes
    text: str

    def decode(self) -> eventsched.Result:
        words = self.text.split()
        raise ValueError(f"model crashed after {len(words)} words")


def recognise(audio: bytes) -> eventsched.Result:
    """Fail in an inner frame, with a cause, while both frames have speech in their variables."""
    text = text_of(audio)
    try:
        return Decoder(audio, text).decode()
    except ValueError as error:
        logging.getLogger("model").warning("the model has failed", exc_info=True)
        structlog.get_logger("model").warning("the model has failed", exc_info=True)
        raise RuntimeError("no result") from error


def node_for(name: str, source: str) -> eventsched.Node:
    return eventsched.Node(name, sources=[source], targets=["es"], slots=2)


awaits = node_for("awaits", "en")
threads = node_for("threads", "de")
processes = node_for("processes", "fr")
returns = node_for("returns", "it")
returns_from_process = node_for("returns-from-process", "pt")
groups = node_for("groups", "nl")
library = node_for("library", "sv")


@awaits.job
async def awaits_and_raises(job: eventsched.Job) -> eventsched.Result:
    audio = await job.audio()
    await job.partial(source_text=text_of(audio))
    return recognise(audio)


@threads.job
def raises(job: eventsched.BlockingJob) -> eventsched.Result:
    return recognise(job.audio())


@processes.job(processes=True)
def raises_in_a_process(job: eventsched.BlockingJob) -> eventsched.Result:
    return recognise(job.audio())


@returns.job
async def returns_a_text(job: eventsched.Job) -> eventsched.Result:
    return text_of(await job.audio())  # type: ignore[return-value]


@returns_from_process.job(processes=True)
def returns_a_text_from_a_process(job: eventsched.BlockingJob) -> eventsched.Result:
    return [job.audio(), text_of(job.audio())]  # type: ignore[return-value]


@groups.job
async def raises_a_group(job: eventsched.Job) -> eventsched.Result:
    audio = await job.audio()

    async def part() -> None:
        recognise(audio)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(part)
        tasks.start_soon(part)
    raise AssertionError("not reached")


@library.job
async def raises_in_a_program(job: eventsched.Job) -> eventsched.Result:
    return recognise(await job.audio())


async def main() -> None:
    data = os.environ["EVENTSCHED_DATA"]
    async with eventsched.connect(data=data) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(library.run, es)
        full_id = complete(library.name, es.cells)
        await until("the node is registered", partial(is_registered, es, full_id))
        sys.stdout.write("serving\n")
        sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main)
