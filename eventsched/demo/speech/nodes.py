"""The recogniser and the translator behind a node, as any user would write one.

    eventsched node eventsched.demo.speech.nodes:node

Owns: the handler. Recognising is bound by the CPU and holds the interpreter's lock, so the handler
runs in processes of its own, each with a model and translators that stay loaded.
Never does: anything that a node of yours could not. Read next: recogniser.py, translator.py.
"""

from __future__ import annotations

import atexit
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from eventsched.audio.wav import resample
from eventsched.client.results import NoSpeech, Result
from eventsched.demo.speech.recogniser import RATE, Recogniser
from eventsched.demo.speech.translator import TranslationFailed, Translator
from eventsched.node.job import BlockingJob, JobError
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


class Handler:
    """Recognises the speech of a job and translates it if it can. Raises JobError."""

    def __call__(self, job: BlockingJob) -> Result | NoSpeech:
        if job.encoding != "pcm16":
            raise JobError("AUDIO_FORMAT")
        words = recognise(job.audio(), job.sample_rate)
        if not words:
            return NoSpeech()
        try:
            text = translator(job.target).translate(words)
        except TranslationFailed as error:
            raise JobError("TRANSLATION_FAILED", retryable=True) from error
        return Result(text=text, source_text=words)

    def __reduce__(self) -> tuple[Callable[[], Handler], tuple[()]]:
        return warm_handler, ()


def warm_handler() -> Handler:
    """The handler as a worker process loads it: with its model, so that no job waits for that."""
    recognise(b"", RATE)
    for target in TARGETS:
        with suppress(TranslationFailed):
            translator(target).translate("good morning")
    return Handler()


def make_node(name: str, *, slots: int = 1) -> Node:
    """A node that listens to English and answers in TARGETS."""
    made = Node(name, sources=[SOURCE], targets=TARGETS, slots=slots)
    made.job(processes=True)(Handler())
    return made


def recognise(pcm: bytes, sample_rate: int) -> str:
    """The words, by the recogniser of the process that this runs in."""
    return recogniser().recognise(
        pcm if sample_rate == RATE else resample(array("h", pcm), sample_rate, RATE).tobytes()
    )


node = make_node("speech")
