"""The worker processes of a node whose handler runs in processes.

Owns: starting, loading, using and ending them; saying how one died; their log lines.
Never does: what happens inside one (process_worker.py). Read next: executor.py.

Why not a library: `anyio.to_process` talks over the worker's standard input and output, which a
handler's C library or child program shares; keeps its standard error in a pipe that nobody reads;
drops its log lines; and leaves it in the terminal's process group, so that Ctrl-C ends what should
be drained. `concurrent.futures` cannot end one call without breaking the whole pool, and a bare
`multiprocessing.Process` gives neither the log lines nor a session of its own. What is left to do
here is small: one socket a worker, and one job at a time.
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import cast

import anyio
import msgspec
import structlog

from eventsched.client.results import NoSpeech, Result
from eventsched.errors import EventschedError, InvalidMessage
from eventsched.node import process_worker
from eventsched.node.job import BlockingJob, JobError
from eventsched.node.process_worker import (
    SIGNALS,
    Begun,
    Call,
    Ended,
    Frames,
    Line,
    Load,
    Loaded,
    Raised,
    ToNode,
    frame,
)

END_S = 5.0
"""How long workers may take to end by themselves, once the node has no more jobs for them."""
POLL_S = 0.01
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from eventsched.node.process_worker import main; main()"
)

log = structlog.get_logger("eventsched.node.node")


class HandlerRaised(EventschedError):
    """Raised when a handler in a process raised something that is no outcome.

    `error` and `trace` are that exception and its traceback, as text: its class need not exist
    in the node's process.
    """

    def __init__(self, error: str, trace: str) -> None:
        super().__init__(error)
        self.error = error
        self.trace = trace


class WorkerDied(EventschedError):
    """Raised when the process of a handler ended before its job; the text says how."""


@asynccontextmanager
async def process_pool(handler: bytes, *, size: int) -> AsyncIterator[ProcessPool]:
    """A pool for a pickled handler; its processes end when the block does.

    One process has loaded the handler when the block begins: what no process can load is refused
    before any job is taken. Raises InvalidMessage.
    """
    if process_worker.is_worker():
        raise RuntimeError(
            "a worker process may not start a node: put what runs it under "
            "`if __name__ == '__main__':`"
        )
    pool = ProcessPool(handler, size)
    try:
        await pool.start()
        yield pool
    finally:
        with anyio.CancelScope(shield=True):
            await pool.close()


class ProcessPool:
    """Up to `size` processes, each with the handler loaded; started when they are needed."""

    def __init__(self, handler: bytes, size: int) -> None:
        self._handler = handler
        self._limiter = anyio.CapacityLimiter(size)
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._is_closing = False
        self._context = copy_context()

    async def start(self) -> None:
        """The handler can be loaded, and is in one process. Raises InvalidMessage."""
        worker = self._start()
        try:
            await worker.load()
        except HandlerRaised as raised:
            log.error("handler not loaded", error=raised.error, exception=raised.trace)
            raise InvalidMessage.of(
                "processes",
                f"a worker process cannot load the handler: {raised.error}",
                "its module must be importable in a process of its own",
            ) from raised
        self._idle.append(worker)

    async def run(self, job: BlockingJob) -> Result | NoSpeech | JobError:
        """The job's outcome. Cancelled, its process is killed, with all that this has started.

        Raises HandlerRaised, WorkerDied.
        """
        async with self._limiter:
            while True:
                waiting = self._take()
                worker = waiting or self._start()
                try:
                    return await self._run_by(worker, job)
                except WorkerDied:
                    if waiting is None or worker.has_begun:
                        raise
                    # It was dying when it was taken: the job has not begun, and goes to another.
                    self._report(worker)

    async def _run_by(self, worker: _Worker, job: BlockingJob) -> Result | NoSpeech | JobError:
        try:
            # Cancelled while it still loads, it goes on: the next job would wait from anew.
            await worker.load()
        except BaseException:
            self._put_back(worker)
            raise
        try:
            return await worker.run(job)
        except BaseException as error:
            if not isinstance(error, HandlerRaised):
                worker.kill()
            raise
        finally:
            self._put_back(worker)

    def _take(self) -> _Worker | None:
        """The process that was used last, if one waits for a job."""
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
        """The worker's process has ended; one that had no job says so here."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
            self._report(worker)

    def _report(self, worker: _Worker) -> None:
        if not self._is_closing:
            log.warning("worker process ended", pid=worker.pid, how=worker.end)

    def on_line(self, line: Line) -> None:
        """A worker's log line is written here, in this process's form."""
        # In the context of the pool, not in that of the job for which the worker was started.
        try:
            self._context.run(_write, line)
        except Exception as error:  # noqa: BLE001 - no line is a reason to lose a worker
            log.error("log line of a worker not written", error=f"{error!r:.500}")

    async def close(self) -> None:
        """No process of the pool is left when this returns."""
        self._is_closing = True
        for worker in self._workers:
            worker.close()
        with anyio.move_on_after(END_S):
            for worker in list(self._workers):
                await worker.ended.wait()
        left = list(self._workers)
        for worker in left:
            worker.kill()
        with anyio.move_on_after(END_S):
            for worker in left:
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
        self._news = asyncio.Event()
        self._to_load = b""
        self._is_loaded = False
        self.has_begun = False
        """Whether its latest job has."""
        self._is_failed = False
        self._is_closing = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def is_usable(self) -> bool:
        """Whether it has its handler, or will have it."""
        return not (self._is_failed or self._is_closing or self.end)

    # --- starting -----------------------------------------------------------------------------

    def start(self, handler: bytes) -> None:
        """The process is started; `load` waits until it has the handler."""
        self._to_load = frame(_loading(handler))
        # In the loop's own thread: the kernel ends the worker when the thread that started it does.
        self._process, self._socket = _spawn()

    async def load(self) -> None:
        """The handler is loaded. Raises HandlerRaised, WorkerDied."""
        await self._connect()
        while not self._is_loaded:
            await self._wait()
            if self._answers:
                self._is_failed = True
                self._take_answer()

    async def _connect(self) -> None:
        if self._socket is None:
            return
        sock, self._socket = self._socket, None
        with anyio.CancelScope(shield=True):  # half open it could not be closed
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: self, sock=sock)
        self._send(self._to_load)
        self._to_load = b""

    async def run(self, job: BlockingJob) -> Result | NoSpeech | JobError:
        """The job's outcome. Raises HandlerRaised, WorkerDied."""
        self.has_begun = False
        self._send(frame(Call(pickle.dumps(job))))
        while not self._answers:
            await self._wait()
        return _outcome(self._take_answer())

    def _take_answer(self) -> Ended:
        answer = self._answers.pop()
        if isinstance(answer, Raised):
            raise HandlerRaised(answer.error, answer.trace)
        return answer

    async def _wait(self) -> None:
        """Something has come from the worker. Raises WorkerDied when nothing will."""
        if not self.end:
            await self._news.wait()
            self._news.clear()
        if self.end and not self._answers:
            raise WorkerDied(f"worker process {self.pid} ended by {self.end}")

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # --- what asyncio calls -------------------------------------------------------------------

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
        else:
            self._answers.append(message)
        self._news.set()

    def connection_lost(self, _: Exception | None) -> None:
        if not self._is_closing:
            self._end_group()  # dead already, or out of reach
        self._reap()

    # --- ending -------------------------------------------------------------------------------

    def close(self) -> None:
        """It ends by itself, as soon as it sees that its socket is closed."""
        self._is_closing = True
        self._close_socket()

    def kill(self) -> None:
        """It ends at once, with all the programs that its handler has started."""
        self._is_closing = True
        self._end_group()
        self._close_socket()

    def _close_socket(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._socket is not None:  # nobody has waited for it yet
            self._socket.close()
            self._socket = None
            self._reap()

    def _end_group(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:  # else its number may be another's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Its end is known as soon as the kernel tells."""
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            asyncio.get_running_loop().call_later(POLL_S, self._reap)
            return
        self.end = how_ended(code)
        self._news.set()
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


def _outcome(ended: Ended) -> Result | NoSpeech | JobError:
    if ended.result is not None:
        return ended.result
    if ended.no_speech:
        return NoSpeech(code=ended.no_speech)
    return JobError(ended.failed, retryable=ended.retryable, feature=ended.feature)


# --- starting a process -------------------------------------------------------------------------


def _spawn() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A worker process, and this end of the socket to it."""
    ours, theirs = map(_private, socket.socketpair())
    # Inherited by the worker, which receives both signals only once it ignores them.
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
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
            start_new_session=True,  # Ctrl-C in a terminal reaches neither it nor its children
        )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        theirs.close()
    ours.setblocking(False)
    return process, ours


def _private(sock: socket.socket) -> socket.socket:
    """The socket under a descriptor above 2, also where a standard descriptor is closed."""
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


def _loading(handler: bytes) -> Load:
    module, file = _main_program() if b"__main__" in handler else ("", "")
    return Load(
        path=[one or str(Path.cwd()) for one in sys.path],
        handler=handler,
        main_module=module,
        main_file=file,
        log_level=_log_level(),
        root_level=logging.getLogger().level,
    )


def _main_program() -> tuple[str, str]:
    """How `__main__` was started here: by a module's name, or by a file."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return spec.name, ""
    return "", str(Path(getattr(main, "__file__", "")).absolute())


def _log_level() -> int:
    """From which level on structlog writes here; all, if its configuration does not say."""
    try:
        level = getattr(structlog.get_logger().bind(), "get_effective_level", None)
        return int(level()) if callable(level) else logging.NOTSET
    except Exception:  # noqa: BLE001 - an application's own kind of logger
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
    if not isinstance(level, int):  # a level of the handler's own
        level = logging.INFO
    if not logger.isEnabledFor(level):
        return
    trace = line.fields.pop("exception", None)
    fields = {"name": line.logger, "levelno": level, "levelname": line.level}
    record = logging.makeLogRecord(line.fields | fields | {"msg": line.event, "exc_text": trace})
    logger.handle(record)
