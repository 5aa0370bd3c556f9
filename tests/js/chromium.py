"""A headless Chromium with a microphone that plays a file, driven by its debugging protocol.

async with chromium(wav) as browser:
    page = await browser.open("http://127.0.0.1:8000/")
    await page.click("#talk")
    await page.until("document.querySelector('li') !== null")
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import msgspec
from websockets.asyncio.client import ClientConnection, connect

from tests.systems import until

WITHIN_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
)
ADDRESS = re.compile(r"DevTools listening on (ws://\S+)")


class Page:
    """One page. Its console messages and exceptions are in `messages`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.messages: list[str] = []

    async def read(self) -> None:
        """Read what the browser says, until the connection ends."""
        async for text in self._socket:
            message = msgspec.json.decode(text)
            if "id" in message:
                reply = self._replies.pop(message["id"])
                if not reply.done():  # its caller has given up
                    reply.set_result(message)
            elif message["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                self.messages.append(str(message["params"])[:500])

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the debugging protocol and return its result."""
        number = next(self._ids)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        call = {"id": number, "method": method, "params": parameters}
        await self._socket.send(msgspec.json.encode(call).decode())
        with anyio.fail_after(WITHIN_S):
            answer = await reply
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, (expression, result, self.messages)
        return result["result"].get("value")

    async def until(self, condition: str, within_s: float = WITHIN_S) -> None:
        """Wait until an expression is true in the page."""

        async def holds() -> bool:
            return bool(await self.evaluate(condition))

        try:
            await until(condition, holds, within_s)
        except TimeoutError as error:
            body = await self.evaluate("document.body.innerText")
            raise TimeoutError(f"{error}; {body!r}; {self.messages}") from None

    async def click(self, selector: str) -> None:
        await self.evaluate(f"document.querySelector({selector!r}).click()")


class Browser:
    """A running Chromium."""

    def __init__(self, address: str, tasks: Any) -> None:
        self._address = address
        self._tasks = tasks

    async def open(self, url: str, *, has_own_cookies: bool = False) -> Page:
        """Open a page and wait until it is loaded."""
        browser = await self._connect(self._address)
        context = {}
        if has_own_cookies:
            context = await browser.call("Target.createBrowserContext")
        target = (await browser.call("Target.createTarget", url="about:blank", **context))[
            "targetId"
        ]
        base = self._address.partition("/devtools/")[0]
        page = await self._connect(f"{base}/devtools/page/{target}")
        await page.call("Runtime.enable")
        await page.call("Page.navigate", url=url)
        await page.until(f"location.href === {url!r} && document.readyState === 'complete'")
        return page

    async def _connect(self, address: str) -> Page:
        page = Page(await connect(address, proxy=None, max_size=None))
        self._tasks.start_soon(page.read)
        return page


@asynccontextmanager
async def chromium(microphone: Path | None = None) -> AsyncIterator[Browser]:
    """Run Chromium while the block lasts; its microphone, if named, plays a WAV file once."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "make test-browser needs the program chromium on PATH"
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f"--user-data-dir={profile}",
            *([f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else []),
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            address = await _address(process.stderr)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.stderr.read)
                yield Browser(address, tasks)
                tasks.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _address(messages: asyncio.StreamReader) -> str:
    """The address of the browser, which it prints."""
    with anyio.fail_after(WITHIN_S):
        while line := await messages.readline():
            found = ADDRESS.search(line.decode(errors="replace"))
            if found:
                return found[1]
    raise AssertionError("Chromium has ended")
