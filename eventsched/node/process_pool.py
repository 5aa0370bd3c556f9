"""The worker processes of a node whose handler runs in processes.

Owns: starting, loading, using and ending the processes, reporting how one died, and writing their
log lines.
Must not: do what happens inside a worker (process_worker.py).
Read next: executor.py.

Why not a library: `anyio.to_process` uses the worker's standard input and output, which a handler's
C library or child program shares. It leaves the worker's standard error in a pipe without a reader,
drops its log lines, and keeps it in the terminal's process group, so that Ctrl-C ends a worker that
should be drained. `concurrent.futures` cannot end one call without breaking the whole pool. A bare
`multiprocessing.Process` has neither log lines nor a process session of its own. This module is
small in comparison: one socket for each worker, and one job at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Protocol, cast

import anyio
import msgspec
import structlog

from eventsched.client.results import NoSpeech, Result
from eventsched.errors import EventschedError, InvalidMessage, Refused, ServerUnavailable
from eventsched.logs import get_logger
from eventsched.node import process_worker
from eventsched.node.hooks import startup_failed
from eventsched.node.job import BlockingJob, JobError
from eventsched.node.process_worker import (
    SIGNALS,
    Begun,
    Call,
    Ended,
    Extend,
    Frames,
    Line,
    Load,
    Loaded,
    Partial,
    Raised,
    Reply,
    Request,
    ToNode,
    frame,
)

END_S = 5.0
"""How long idle workers may take to exit when the pool closes."""
POLL_S = 0.01
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from eventsched.node.process_worker import main; main()"
)

log = get_logger("eventsched.node.node")


class HandlerRaised(EventschedError):
    """Raised when a handler in a process raised an exception that is no outcome.

    `error`, `trace` and `cause` are the exception, its traceback and its cause as text, because its
    class need not exist in the node's process.
    """

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.error)
        self.error = raised.error
        self.trace = raised.trace
        self.cause = raised.cause
        self.in_startup = raised.in_startup


class WorkerDied(EventschedError):
    """Raised when the process of a handler ended before its job did; the text says how."""


class AsyncCalls(Protocol):
    """The calls of a job that reach the server."""

    async def partial(self, text: str | None = None, *, source_text: str = "") -> None: ...

    async def extend(self, seconds: float) -> int: ...


@asynccontextmanager
async def process_pool(handler: bytes, *, size: int, loaded: int = 1) -> AsyncIterator[ProcessPool]:
    """A pool of processes for a pickled handler. They end with the block.

    `loaded` processes have loaded the handler when the block begins, so a handler that no process
    can load is refused before any job. Raises InvalidMessage, WorkerDied.
    """
    if process_worker.is_worker():
        raise RuntimeError(
            "a worker process may not start a node: put what runs it under "
            "`if __name__ == '__main__':`"
        )
    pool = ProcessPool(handler, size)
    try:
        await pool.start(loaded)
        yield pool
    finally:
        with anyio.CancelScope(shield=True):
            await pool.close()


class ProcessPool:
    """Up to `size` processes that have loaded the handler; `run` starts what `start` did not."""

    def __init__(self, handler: bytes, size: int) -> None:
        self._handler = handler
        self._limiter = anyio.CapacityLimiter(size)
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._is_closing = False
        self._context = copy_context()

    async def start(self, count: int) -> None:
        """Load the handler in so many processes at once. Raises InvalidMessage, WorkerDied."""
        workers = [self._start() for _ in range(count)]
        for worker in workers:
            await worker.connect()
        for worker in workers:
            await self._load_first(worker)

    async def _load_first(self, worker: _Worker) -> None:
        try:
            await worker.load()
        except HandlerRaised as raised:
            log.error("handler not loaded", error=raised.error, exception=raised.trace)
            if raised.in_startup:
                raise startup_failed(str(raised.cause)) from raised
            raise InvalidMessage.of(
                "processes",
                f"a worker process cannot load the handler: {raised.error}",
                "its module must be importable in a process of its own",
            ) from raised
        self._idle.append(worker)

    async def run(self, job: BlockingJob, calls: AsyncCalls) -> Result | NoSpeech | JobError:
        """Run the handler and return its outcome. If cancelled, kill the process and its children.

        Args:
            job: The job; its copy in the process makes its calls by `calls`.
            calls: The job in this process.

        Raises HandlerRaised, WorkerDied.
        """
        async with self._limiter:
            while True:
                idle = self._take()
                worker = idle or self._start()
                try:
                    return await self._run_on(worker, job, calls)
                except WorkerDied:
                    if idle is None or worker.has_begun:
                        raise
                    # The idle worker was about to die. The job has not begun: try another worker.
                    self._report(worker)

    async def _run_on(
        self, worker: _Worker, job: BlockingJob, calls: AsyncCalls
    ) -> Result | NoSpeech | JobError:
        try:
            # A cancellation does not end the loading: the next job can use the worker.
            await worker.load()
        except BaseException:
            self._put_back(worker)
            raise
        try:
            return await worker.run(job, calls)
        except BaseException as error:
            if not isinstance(error, HandlerRaised):
                worker.kill()
            raise
        finally:
            self._put_back(worker)

    def _take(self) -> _Worker | None:
        """The idle process that was used last, if there is one."""
        return self._idle.pop() if self._idle else None

    def _start(self) -> _Worker:
        worker = _Worker(self)
        worker.start(self._handler)
        self._workers.add(worker)
        return worker

    def _put_back(self, worker: _Worker) -> None:
        if worker.is_usable:
            self._idle.append(worker)
        else:
            worker.kill()

    def on_end(self, worker: _Worker) -> None:
        """A worker's process has ended; an idle one is reported here."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
            self._report(worker)

    def _report(self, worker: _Worker) -> None:
        if not self._is_closing:
            log.warning("worker process ended", pid=worker.pid, how=worker.end)

    def on_line(self, line: Line) -> None:
        """Write a worker's log line with the logging configuration of this process."""
        # In the context of the pool, not of the job for which the worker was started.
        try:
            self._context.run(_write, line)
        except Exception as error:  # noqa: BLE001 - a log line must not cost a worker
            log.error("log line of a worker not written", error=f"{error!r:.500}")

    async def close(self) -> None:
        """End all processes: idle ones exit, the others are killed after END_S."""
        self._is_closing = True
        for worker in self._workers:
            worker.close()
        with anyio.move_on_after(END_S):
            for worker in list(self._workers):
                await worker.ended.wait()
        remaining = list(self._workers)
        for worker in remaining:
            worker.kill()
        with anyio.move_on_after(END_S):
            for worker in remaining:
                await worker.ended.wait()


class _Worker(asyncio.Protocol):
    """One worker process and the node's end of its socket."""

    def __init__(self, pool: ProcessPool) -> None:
        self.ended = asyncio.Event()
        self.end = ""
        """How the process ended, as text; empty while it runs."""
        self._pool = pool
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._frames = Frames()
        self._decoder = msgspec.msgpack.Decoder(ToNode)
        self._answers: list[Ended | Raised] = []
        self._requests: deque[Request] = deque()
        """Calls of the job that the worker waits for."""
        self._changed = asyncio.Event()
        self._to_load = b""
        self._is_loaded = False
        self.has_begun = False
        """Whether the handler has begun with the latest job."""
        self._is_failed = False
        self._is_closing = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def is_usable(self) -> bool:
        """Whether the worker has loaded its handler, or is loading it."""
        return not (self._is_failed or self._is_closing or self.end)

    # --- starting -----------------------------------------------------------------------------

    def start(self, handler: bytes) -> None:
        """Start the process; `load` waits until it has loaded the handler."""
        self._to_load = frame(_load_message(handler))
        # In the event loop's thread: the kernel kills the worker when its starting thread ends.
        self._process, self._socket = _spawn()

    async def load(self) -> None:
        """Wait until the handler is loaded. Raises HandlerRaised, WorkerDied."""
        await self.connect()
        while not self._is_loaded:
            await self._wait()
            if self._answers:
                self._is_failed = True
                self._take_answer()

    async def connect(self) -> None:
        """Connect to the process, which begins to load the handler."""
        if self._socket is None:
            return
        sock, self._socket = self._socket, None
        with anyio.CancelScope(shield=True):  # a cancelled connect would leak the socket
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: self, sock=sock)
        self._send(self._to_load)
        self._to_load = b""

    async def run(self, job: BlockingJob, calls: AsyncCalls) -> Result | NoSpeech | JobError:
        """Run the handler and return its outcome. Raises HandlerRaised, WorkerDied."""
        self.has_begun = False
        self._requests.clear()
        self._send(frame(Call(pickle.dumps(job))))
        while not self._answers:
            if self._requests:
                self._send(frame(await _perform(self._requests.popleft(), calls)))
            else:
                await self._wait()
        return _outcome(self._take_answer())

    def _take_answer(self) -> Ended:
        answer = self._answers.pop()
        if isinstance(answer, Raised):
            raise HandlerRaised(answer)
        return answer

    async def _wait(self) -> None:
        """Wait for a message or the end of the worker. Raises WorkerDied at its end."""
        if not self.end:
            await self._changed.wait()
            self._changed.clear()
        if self.end and not self._answers:
            raise WorkerDied(f"worker process {self.pid} ended by {self.end}")

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # --- callbacks of asyncio -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._receive(self._decoder.decode(body))
        except (process_worker.ProtocolBroken, msgspec.DecodeError) as error:
            log.error("worker process not understood", pid=self.pid, error=str(error))
            self.kill()

    def _receive(self, message: ToNode) -> None:
        if isinstance(message, Line):
            self._pool.on_line(message)
            return
        if isinstance(message, Loaded):
            self._is_loaded = True
        elif isinstance(message, Begun):
            self.has_begun = True
        elif isinstance(message, Partial | Extend):
            self._requests.append(message)
        else:
            self._answers.append(message)
        self._changed.set()

    def connection_lost(self, _: Exception | None) -> None:
        if not self._is_closing:
            self._end_group()  # the worker is dead, or can no longer be reached
        self._reap()

    # --- ending -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the socket; the worker exits when it notices."""
        self._is_closing = True
        self._close_socket()

    def kill(self) -> None:
        """Kill the worker and all programs that its handler has started."""
        self._is_closing = True
        self._end_group()
        self._close_socket()

    def _close_socket(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._socket is not None:  # `load` was never called
            self._socket.close()
            self._socket = None
            self._reap()

    def _end_group(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:  # else its pid may be reused
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Record how the process ended, once the kernel reports it."""
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            asyncio.get_running_loop().call_later(POLL_S, self._reap)
            return
        self.end = how_ended(code)
        self._changed.set()
        self.ended.set()
        self._pool.on_end(self)


def how_ended(code: int) -> str:
    """A process's return code in words: `exit code 3`, `signal SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


async def _perform(request: Request, calls: AsyncCalls) -> Reply:
    """Make a call of a job in a process; its error is a reply as well."""
    try:
        if isinstance(request, Extend):
            return Reply(deadline_ms=await calls.extend(request.seconds))
        await calls.partial(request.text, source_text=request.source_text)
    except Refused as refused:
        return Reply(code=refused.code, fields=refused.fields)
    except ServerUnavailable as error:
        return Reply(unavailable=str(error))
    return Reply()


def _outcome(ended: Ended) -> Result | NoSpeech | JobError:
    if ended.result is not None:
        return ended.result
    if ended.no_speech:
        return NoSpeech(code=ended.no_speech)
    return JobError(
        ended.failed,
        retryable=ended.retryable,
        feature=ended.feature,
        retry_in_ms=ended.retry_in_ms,
    )


# --- starting a process -------------------------------------------------------------------------


def _spawn() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a worker process; returns the process and the node's end of its socket."""
    ours, theirs = map(_above_standard, socket.socketpair())
    # The worker inherits the blocked signals, and unblocks them once it ignores them.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-u", "-c", _PROGRAM),
                *(str(Path(__file__).parents[2]), str(theirs.fileno()), str(os.getpid())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=2 if _is_open(2) else subprocess.DEVNULL,
            stderr=None if _is_open(2) else subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # so that Ctrl-C reaches neither the worker nor its children
        )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        theirs.close()
    ours.setblocking(False)
    return process, ours


def _above_standard(sock: socket.socket) -> socket.socket:
    """The socket with a descriptor above 2, even if a standard descriptor is closed."""
    if sock.fileno() > 2:
        return sock
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _load_message(handler: bytes) -> Load:
    module, file = _main_program() if b"__main__" in handler else ("", "")
    return Load(
        path=[entry or str(Path.cwd()) for entry in sys.path],
        handler=handler,
        main_module=module,
        main_file=file,
        log_level=_log_level(),
        root_level=logging.getLogger().level,
    )


def _main_program() -> tuple[str, str]:
    """Return (module, "") if the program is a module, otherwise ("", absolute path of its file)."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return spec.name, ""
    return "", str(Path(getattr(main, "__file__", "")).absolute())


def _log_level() -> int:
    """The level of structlog in this process; NOTSET if its configuration has none."""
    try:
        level = getattr(structlog.get_logger().bind(), "get_effective_level", None)
        return int(level()) if callable(level) else logging.NOTSET
    except Exception:  # noqa: BLE001 - a logger class of the application may raise anything
        return logging.NOTSET


# --- log lines ----------------------------------------------------------------------------------


def _write(line: Line) -> None:
    if line.is_record:
        _write_record(line)
        return
    level = {"exception": "error", "warn": "warning", "msg": "info", "fatal": "critical"}
    names = [line.logger] if line.logger else []
    write = getattr(structlog.get_logger(*names), level.get(line.level, line.level))
    write(line.event, **line.fields)


def _write_record(line: Line) -> None:
    logger = logging.getLogger(line.logger)
    level = logging.getLevelName(line.level)
    if not isinstance(level, int):  # a level that the handler's module defined
        level = logging.INFO
    if not logger.isEnabledFor(level):
        return
    trace = line.fields.pop("exception", None)
    fields = {"name": line.logger, "levelno": level, "levelname": line.level}
    record = logging.makeLogRecord(line.fields | fields | {"msg": line.event, "exc_text": trace})
    logger.handle(record)
