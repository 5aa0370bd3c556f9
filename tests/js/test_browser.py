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
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import uvicorn

import eventsched
from eventsched.demo.speech.accuracy import word_accuracy
from eventsched.demo.speech.samples import Sample, samples
from examples.web.app import app
from tests.gateway.gateways import gateway_system
from tests.js.chromium import chromium
from tests.js.programs import ROOT, relay
from tests.server_kinds import Server
from tests.systems import serving, until

pytestmark = pytest.mark.browser
RATE = 16_000
BEFORE_S, AFTER_S = 1.0, 300.0
"""Silence around the voice."""
ACCURACY_MIN = 0.7
RECOGNISED_S = 180.0


@pytest.fixture
def voice() -> Sample:
    return samples()[0]


def microphone(folder: Path, speech: bytes) -> Path:
    """A file that Chromium can play: a second of silence, the speech, silence."""
    path = folder / "microphone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(int(BEFORE_S * RATE) * 2))
        file.writeframes(speech)
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
    voice: Sample, tmp_path: Path, example: str
) -> None:
    spoken = " ".join(each.text for each in voice.utterances)
    async with chromium(microphone(tmp_path, voice.pcm())) as browser:
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


@asynccontextmanager
async def application(listening: socket.socket) -> AsyncIterator[None]:
    """The application of the example in this process, while the block lasts."""
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listening])
        yield
        server.should_exit = True


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_page_goes_on_after_its_connection_broke(
    server: Server, cell: str, voice: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = eventsched.Node("n1", sources=["en"], targets=["en", "es"], slots=4)

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=f"{job.ms} ms")

    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    speech = microphone(tmp_path, voice.pcm() * 6)
    async with (
        gateway_system(server.url, cell, origins=(url,)) as system,
        serving(system.es, node),
        relay(system.url) as passing,
        application(listening),
        chromium(speech) as browser,
    ):
        system.key.create(tmp_path / "token.key")
        monkeypatch.setenv("TOKEN_KEY", str(tmp_path / "token.key"))
        monkeypatch.setenv("GATEWAY", passing.url)
        page = await browser.open(f"{url}/")
        await page.click("#talk")
        await page.until("document.querySelector('#es li.result') !== null")
        passing.is_away = True
        passing.cut()
        await page.until("document.querySelector('#state').textContent.includes('broken')")
        before = await page.evaluate("document.querySelectorAll('#es li.result').length")
        passing.is_away = False
        await page.until("document.querySelector('#state').textContent === 'Connected.'")
        await page.until(f"document.querySelectorAll('#es li.result').length > {before}")
        await page.click("#talk")
        await page.until("document.querySelector('#talk').textContent === 'Speak'")
        lines = await page.evaluate("[...document.querySelectorAll('#es li')].map(li => li.id)")
        assert lines == [f"es-{number}" for number in range(len(lines))]
