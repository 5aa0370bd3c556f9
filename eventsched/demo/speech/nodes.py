"""The recogniser and the translator behind a node, as any user would write one.

    eventsched node eventsched.demo.speech.nodes:node

Owns: the handler. Recognising is bound by the CPU, so it has processes of its own, each with a
model that stays loaded; translating is quick and done by other programs, so a thread will do.
Never does: anything that a node of yours could not. Read next: recogniser.py, translator.py.
"""

from __future__ import annotations

import atexit
from array import array
from functools import cache

import anyio.to_process
import anyio.to_thread

from eventsched.audio.wav import resample
from eventsched.client.results import Result
from eventsched.demo.speech.recogniser import RATE, Recogniser
from eventsched.demo.speech.translator import TranslationFailed, Translator
from eventsched.node.job import Job, JobError, NoSpeech
from eventsched.node.node import Node

SOURCE = "en"
TARGETS = ("en", "es")
"""Spanish is served without apertium too: a result without a translation is still a result."""

recogniser = cache(Recogniser)


@cache
def translator(target: str) -> Translator:
    """This process's translator, which ends with it."""
    made = Translator(SOURCE, target)
    atexit.register(made.close)
    return made


def make_node(name: str, *, slots: int = 1) -> Node:
    """A node that listens to English and answers in TARGETS."""
    made = Node(name, sources=[SOURCE], targets=TARGETS, slots=slots)
    made.job(recognise_and_translate)
    return made


async def recognise_and_translate(job: Job) -> Result:
    """What was said, and its translation where there is one. Raises NoSpeech, JobError."""
    if job.encoding != "pcm16":
        raise JobError("AUDIO_FORMAT")
    audio = await job.audio()
    # Cancelled, the process is killed: nothing goes on computing for nobody.
    words = await anyio.to_process.run_sync(recognise, audio, job.sample_rate, cancellable=True)
    if not words:
        raise NoSpeech
    translate = translator(job.target).translate
    try:
        text = await anyio.to_thread.run_sync(translate, words, abandon_on_cancel=True)
    except TranslationFailed as error:
        raise JobError("TRANSLATION_FAILED", retryable=True) from error
    return Result(text=text, source_text=words)


def recognise(pcm: bytes, sample_rate: int) -> str:
    """The words, by the recogniser of the process that this runs in."""
    return recogniser().recognise(
        pcm if sample_rate == RATE else resample(array("h", pcm), sample_rate, RATE).tobytes()
    )


async def warm_up() -> None:
    """The model is loaded and the translator runs, so that the first job need not wait."""
    await anyio.to_process.run_sync(recognise, b"", RATE)
    for target in TARGETS:
        await anyio.to_thread.run_sync(translator(target).translate, "good morning")


node = make_node("speech")
