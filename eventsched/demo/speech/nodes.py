"""A node whose handler recognises and translates speech.

    eventsched node eventsched.demo.speech.nodes:node

Owns: the handler. Recognition is bound by the CPU and holds the interpreter lock, so the handler
runs in processes of its own, in each of which model and translators stay loaded.
Must not: use anything but the public interface of nodes.
Read next: recogniser.py, translator.py.
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
"""Without apertium, a result in Spanish has a transcript and no translation."""

recogniser = cache(Recogniser)


@cache
def translator(target: str) -> Translator:
    """The translator of this process, which ends with the process."""
    instance = Translator(SOURCE, target)
    atexit.register(instance.close)
    return instance


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
    """The handler with its model loaded, as a worker process unpickles it."""
    recognise(b"", RATE)
    for target in TARGETS:
        with suppress(TranslationFailed):
            translator(target).translate("good morning")
    return Handler()


def make_node(name: str, *, slots: int = 1) -> Node:
    """A node from English into TARGETS."""
    speech_node = Node(name, sources=[SOURCE], targets=TARGETS, slots=slots)
    speech_node.job(processes=True)(Handler())
    return speech_node


def recognise(pcm: bytes, sample_rate: int) -> str:
    """The words of an utterance, by the recogniser of this process."""
    return recogniser().recognise(
        pcm if sample_rate == RATE else resample(array("h", pcm), sample_rate, RATE).tobytes()
    )


node = make_node("speech")
