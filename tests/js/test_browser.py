"""The web example in Chromium: a microphone that plays a bundled voice, until its words come back.

They need the program `chromium`, and run by `make test-browser` alone.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsched.demo.speech.accuracy import word_accuracy
from eventsched.demo.speech.samples import Sample, samples
from tests.js.chromium import chromium
from tests.js.programs import ROOT
from tests.systems import until

pytestmark = pytest.mark.browser
RATE = 16_000
BEFORE_S, AFTER_S = 1.0, 300.0
"""Silence around the voice."""
ACCURACY_MIN = 0.7
RECOGNISED_S = 180.0


@pytest.fixture
def voice() -> Sample:
    return samples()[0]


@pytest.fixture
def microphone(voice: Sample, tmp_path: Path) -> Path:
    """A file that Chromium can play: a second of silence, the voice, silence."""
    path = tmp_path / "microphone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(int(BEFORE_S * RATE) * 2))
        file.writeframes(voice.pcm())
        file.writeframes(bytes(int(AFTER_S * RATE) * 2))
    return path


@pytest.fixture
def example(tmp_path: Path) -> Iterator[str]:
    """The URL of the running web example."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (sys.executable, "-m", "examples.web", "--port", str(port))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        url = re.search(r"http://\S+", line)
        assert url, line
        yield url[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()


async def test_the_words_of_the_microphone_come_back_in_both_languages(
    voice: Sample, microphone: Path, example: str
) -> None:
    spoken = " ".join(each.text for each in voice.utterances)

    async with chromium(microphone) as browser:
        page = await browser.open(f"{example}/")
        await page.click("#talk")
        await page.until("document.querySelector('#talk').textContent === 'Stop'")

        async def is_recognised() -> bool:
            text = await page.evaluate("document.querySelector('#en').innerText")
            return word_accuracy(spoken, " ".join(text.split())) >= ACCURACY_MIN

        await until("the words come back", is_recognised, RECOGNISED_S)
        await page.until("document.querySelectorAll('#en li.result').length > 1", RECOGNISED_S)
        await page.until("document.querySelectorAll('#es li.result').length > 1", RECOGNISED_S)
        await page.click("#talk")
        await page.until("document.querySelector('#talk').textContent === 'Speak'")
        assert page.messages == []
