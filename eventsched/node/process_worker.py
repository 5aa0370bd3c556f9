"""One worker process: loads a node's handler and runs it for one job at a time.

Owns: the frames that a node and its worker exchange, and everything that runs in the worker:
signals, log lines, the handler, the end.
Never does: choose jobs, or decide how long one may take. Read next: process_pool.py.

A frame is four bytes of length (big endian) and a message in MessagePack, over a socket that is
neither of the descriptors 0, 1 and 2. These belong to the handler: 0 is empty, 1 and 2 are the
node's standard error. Log lines travel in frames, so that the node writes them in its own form.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import runpy
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import msgspec
import structlog
from structlog.contextvars import bound_contextvars

from eventsched.client.results import NoSpeech, Result
from eventsched.errors import EventschedError
from eventsched.node.job import BlockingJob, JobError, NoSpeechError, outcome_of
from eventsched.subprocesses import die_with_parent

FRAME_BYTES_MAX = 128 * 1024 * 1024
"""More than any job: the setting `audio_bytes_max` ends at 100,000,000."""
LINE_BYTES_MAX = 64 * 1024
"""Of a longer log line each value is cut to VALUE_CHARACTERS_MAX, and FIELDS_MAX are left."""
VALUE_CHARACTERS_MAX = 4_000
TRACE_CHARACTERS_MAX = 20_000
NAME_CHARACTERS_MAX = 100
FIELDS_MAX = 40
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HEADER = struct.Struct(">I")


# --- messages -----------------------------------------------------------------------------------


class Load(msgspec.Struct, tag="load"):
    """Node to worker, first: where modules are found, and the handler."""

    path: list[str]
    handler: bytes
    """Pickled."""
    main_module: str
    main_file: str
    """The node's main program, if the handler is defined there: by name or by file."""
    log_level: int
    """Of structlog in the node: what it would not write need not be sent."""
    root_level: int
    """Of the root logger of `logging` in the node."""


class Call(msgspec.Struct, tag="call"):
    """Node to worker: run the handler for this job (a pickled BlockingJob)."""

    job: bytes


class Loaded(msgspec.Struct, tag="loaded"):
    """Worker to node: the handler is there, jobs may come."""


class Begun(msgspec.Struct, tag="begun"):
    """Worker to node: the handler is about to run, so the job may have effects."""


class Ended(msgspec.Struct, tag="ended"):
    """Worker to node: the handler returned or raised an outcome."""

    result: Result | None = None
    no_speech: str = ""
    """Code of a NoSpeech."""
    failed: str = ""
    """Code of a JobError."""
    retryable: bool = False
    feature: str = ""


class Raised(msgspec.Struct, tag="raised"):
    """Worker to node: the handler, or the loading of it, raised something else."""

    error: str
    trace: str


class Line(msgspec.Struct, tag="line"):
    """Worker to node: a line for its log."""

    logger: str
    """Name of the logger; empty for structlog's without a name."""
    level: str
    event: str
    fields: dict[str, Any]
    is_record: bool = False
    """It came through `logging`, not through structlog."""


ToWorker: TypeAlias = Load | Call
ToNode: TypeAlias = Loaded | Begun | Ended | Raised | Line


class ProtocolBroken(EventschedError):
    """Raised when the other end sent something that is no frame of this protocol."""


_encoder = msgspec.msgpack.Encoder(enc_hook=repr)


def frame(message: ToWorker | ToNode) -> bytes:
    """The message as it travels. Raises ValueError when it is larger than FRAME_BYTES_MAX."""
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"{len(body)} bytes for another process, at most {FRAME_BYTES_MAX}")
    return _HEADER.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete with these bytes. Raises ProtocolBroken."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._buffer)
            if size > FRAME_BYTES_MAX:
                raise ProtocolBroken(f"a frame of {size} bytes, at most {FRAME_BYTES_MAX}")
            end = _HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield body


# --- the worker ---------------------------------------------------------------------------------


def main() -> None:
    """Serve the node at the other end of the socket until it closes it.

    Arguments: the socket's descriptor, the node's process.
    """
    descriptor, parent = map(int, sys.argv[1:])
    ignore_signals()
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked to tell
        os._exit(1)
    connection = Connection(socket.socket(fileno=descriptor))
    Worker(connection).run()


def is_worker() -> bool:
    """Whether this process is a worker: it must not start workers of its own."""
    return Worker.of_this_process is not None


def ignore_signals() -> None:
    """SIGINT and SIGTERM do nothing here: they ask the node to drain, and the job goes on.

    By handlers that do nothing: programs that a handler starts have the usual ones again, and
    can be ended by these signals.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked until here, by who started us


class Connection:
    """The worker's end of the socket; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._process = os.getpid()
        os.set_inheritable(sock.fileno(), False)
        os.register_at_fork(after_in_child=self._let_go)

    def _let_go(self) -> None:
        """A fork of the worker is not the worker: the node must not wait for it."""
        self._lock = threading.Lock()
        self._socket.close()

    @property
    def is_ours(self) -> bool:
        return os.getpid() == self._process

    def send(self, message: ToNode) -> None:
        data = frame(message)
        with self._lock:
            self._socket.sendall(data)

    def messages(self) -> Iterator[ToWorker]:
        """What the node sends, until it closes the socket or is gone."""
        decoder = msgspec.msgpack.Decoder(ToWorker)
        frames = Frames()
        while data := self._received():
            for body in frames.feed(data):
                yield decoder.decode(body)

    def _received(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except OSError:
            return b""


class Worker:
    """Runs jobs in the main thread; another one reads, and notices the node's end meanwhile."""

    of_this_process: ClassVar[Worker | None] = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._is_busy = True
        self._handler: Any = None

    def run(self) -> None:
        Worker.of_this_process = self
        threading.Thread(target=self._read, name="node", daemon=True).start()
        with suppress(OSError):  # the node is gone
            while (message := self._messages.get()) is not None:
                self._is_busy = True
                self._connection.send(self._answer(message))
                self._is_busy = False

    def _read(self) -> None:
        for message in self._connection.messages():
            self._messages.put(message)
        if self._is_busy:
            end_group()  # nobody waits for the job any more
        self._messages.put(None)

    def _answer(self, message: ToWorker) -> ToNode:
        """What comes of a message; whatever is raised meanwhile is an answer, too."""
        try:
            if isinstance(message, Load):
                self._load(message)
                return Loaded()
            self._connection.send(Begun())
            answer = self._run(pickle.loads(message.job))
            frame(answer)
            return answer
        except BaseException as error:  # noqa: BLE001 - an exit as well: the worker serves on
            trace = "".join(traceback.format_exception(error))
            return Raised(_shown(error), _cut(trace, TRACE_CHARACTERS_MAX))

    def _load(self, message: Load) -> None:
        sys.path[:] = message.path
        forward_logs(self._connection, message.log_level, message.root_level)
        if message.main_module or message.main_file:
            load_main(message.main_module, message.main_file)
        self._handler = pickle.loads(message.handler)
        ignore_signals()  # again: a module may have set handlers of its own

    def _run(self, job: BlockingJob) -> Ended:
        about = {"session": job.session, "job": job.key, "attempt": job.attempt}
        _current.clear()
        _current.update(about)
        try:
            with bound_contextvars(**about):
                return ended(self._outcome(job))
        finally:
            _current.clear()

    def _outcome(self, job: BlockingJob) -> Any:
        try:
            returned = self._handler(job)
            if hasattr(returned, "__await__"):
                import asyncio

                returned = asyncio.run(_awaited(returned))
        except BaseException as error:
            outcome = outcome_of(error)
            if outcome is None:
                raise
            return outcome
        return returned


_current: dict[str, Any] = {}
"""What the running job's log lines are about, for all threads of the worker."""


async def _awaited(ending: Any) -> Any:
    return await ending


def ended(outcome: Any) -> Ended:
    """The outcome as a message. Raises TypeError for anything else."""
    if isinstance(outcome, NoSpeech | NoSpeechError):
        return Ended(no_speech=outcome.code)
    if isinstance(outcome, JobError):
        return Ended(failed=outcome.code, retryable=outcome.retryable, feature=outcome.feature)
    if not isinstance(outcome, Result):
        raise TypeError(f"a handler returns a Result, NoSpeech or JobError, not {outcome!r:.80}")
    return Ended(
        Result(
            text=outcome.text,
            source_text=outcome.source_text,
            language=outcome.language,
            audio=outcome.audio,
        )
    )


def load_main(module: str, file: str) -> None:
    """The node's main program is `__main__` here as well, without its `if __name__ == …` part."""
    name = "__mp_main__"  # the name that multiprocessing has made customary
    if module:
        names = runpy.run_module(module, run_name=name, alter_sys=True)
    else:
        names = runpy.run_path(file, run_name=name)
    main_module = ModuleType(name)
    main_module.__dict__.update(names)
    sys.modules["__main__"] = sys.modules[name] = main_module


def end_group() -> None:
    """Ends this process, with the programs that its handler has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _shown(value: object) -> str:
    try:
        return f"{value!r:.500}".encode(errors="replace").decode()
    except BaseException:  # noqa: BLE001 - a handler's own class may fail at this as well
        return type(value).__name__


# --- log lines ----------------------------------------------------------------------------------


def forward_logs(connection: Connection, log_level: int, root_level: int) -> None:
    """What is logged from now on, through structlog or `logging`, goes to the node.

    A module that configures one of the two itself, as the handler's may, has its own way.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(log_level),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            structlog.dev.set_exc_info,
            structlog.processors.format_exc_info,
            _Forward(connection),
        ],
        logger_factory=_Named,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.addHandler(_Records(connection))
    root.setLevel(root_level)


class _Named:
    """What structlog wraps: nothing but the logger's name."""

    def __init__(self, *names: Any) -> None:
        self.name = str(names[0]) if names else ""

    def __getattr__(self, method: str) -> Any:
        return lambda *_, **__: None


class _Forward:
    """The last of structlog's processors: it sends the line."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, logger: Any, method: str, fields: Any) -> Any:
        event = str(fields.pop("event", ""))
        line = Line(getattr(logger, "name", ""), method, event, _current | fields)
        _send_line(self._connection, line)
        raise structlog.DropEvent


class _Records(logging.Handler):
    """Sends the records of `logging`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = dict(_current)
            if record.exc_info:
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
            line = Line(record.name, record.levelname, record.getMessage(), fields, is_record=True)
            _send_line(self._connection, line)
        except Exception:  # noqa: BLE001 - as every handler of `logging` does it
            self.handleError(record)


def _send_line(connection: Connection, line: Line) -> None:
    """A line is never why a job fails: what cannot be sent is written on standard error."""
    line = _bounded(line)
    try:
        if not connection.is_ours:
            raise OSError("a fork of the worker")
        connection.send(line)
    except OSError:
        sys.stderr.write(f"{line.event} {line.fields}\n")


def _bounded(line: Line) -> Line:
    """The line, if it can be encoded and is not too long; else what matters of it, as text."""
    with suppress(Exception):  # a value may be of a class that cannot be encoded
        if len(_encoder.encode(line)) <= LINE_BYTES_MAX:
            return line
    fields = list(line.fields.items())[:FIELDS_MAX]
    return Line(
        _cut(line.logger, VALUE_CHARACTERS_MAX),
        line.level,
        _cut(line.event, VALUE_CHARACTERS_MAX),
        {_cut(_text(name), NAME_CHARACTERS_MAX): _small(value) for name, value in fields},
        line.is_record,
    )


def _small(value: Any) -> Any:
    """The value, if it can be encoded and is small; else the beginning and end of its text."""
    with suppress(Exception):
        if len(_encoder.encode(value)) <= VALUE_CHARACTERS_MAX:
            return value
    return _cut(_text(value), VALUE_CHARACTERS_MAX)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _shown(value)


def _cut(text: str, characters_max: int) -> str:
    """Valid text of at most that length, without its middle if it is longer."""
    text = text.encode(errors="replace").decode()
    if len(text) <= characters_max:
        return text
    half = characters_max // 2
    return f"{text[:half]}\n…\n{text[-half:]}"
