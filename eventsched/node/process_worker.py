"""One worker process: loads a node's handler and runs it for one job at a time.

Owns: the frames that a node and its worker exchange, and everything that runs in the worker:
signals, log lines, the handler, the exit.
Must not: choose jobs, or limit their time.
Read next: process_pool.py.

A frame is a length of four bytes (big endian) and a message in MessagePack. The socket has a
descriptor above 2, because the descriptors 0, 1 and 2 belong to the handler: 0 is empty, 1 and 2
are the node's standard error. Log lines travel in frames, so that the node formats them.
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
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import msgspec
import structlog
from structlog.contextvars import bound_contextvars

from eventsched.client.results import NoSpeech, Result
from eventsched.current_span import current_span, log_fields
from eventsched.errors import BY_CODE, EventschedError, Refused, ServerUnavailable
from eventsched.node.cause import Cause, cause_of, shorten, trace_of
from eventsched.node.job import (
    BlockingJob,
    JobError,
    NoSpeechError,
    connect_calls,
    no_outcome,
    outcome_of,
)
from eventsched.node.plain import plain_error, plain_result, plain_text
from eventsched.subprocesses import die_with_parent

FRAME_BYTES_MAX = 128 * 1024 * 1024
"""More than any job: the setting `audio_bytes_max` ends at 100,000,000."""
LINE_BYTES_MAX = 64 * 1024
"""A longer log line is reduced to FIELDS_MAX fields of VALUE_CHARACTERS_MAX each."""
VALUE_CHARACTERS_MAX = 4_000
NAME_CHARACTERS_MAX = 100
FIELDS_MAX = 40
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HEADER = struct.Struct(">I")


# --- messages -----------------------------------------------------------------------------------


class Load(msgspec.Struct, tag="load"):
    """Node to worker, first: the search path of modules, and the handler."""

    path: list[str]
    handler: bytes
    """The handler, the startup hook and the shutdown hook, pickled together."""
    main_module: str
    main_file: str
    """The node's main program by name or by file, if the handler is defined there."""
    log_level: int
    """Level of structlog in the node: lines below it need not be sent."""
    root_level: int
    """Level of the root logger of `logging` in the node."""


class Call(msgspec.Struct, tag="call"):
    """Node to worker: run the handler for this job (a pickled BlockingJob)."""

    job: bytes


class Reply(msgspec.Struct, tag="reply"):
    """Node to worker: what a call of the job returned or raised."""

    deadline_ms: int = 0
    """End of the lease, after `extend`."""
    code: str = ""
    """Code of the refusal that it raised; `fields` are its fields."""
    fields: dict[str, str] = {}
    unavailable: str = ""
    """Text of the ServerUnavailable that it raised."""


class Partial(msgspec.Struct, tag="partial"):
    """Worker to node: send a partial result; a Reply follows."""

    text: str | None
    source_text: str


class Extend(msgspec.Struct, tag="extend"):
    """Worker to node: extend the lease; a Reply follows."""

    seconds: float


class Loaded(msgspec.Struct, tag="loaded"):
    """Worker to node: the handler is loaded and the startup hook has run; jobs can be sent."""


class Begun(msgspec.Struct, tag="begun"):
    """Worker to node: the handler is about to run, so from now on the job may have effects."""


class Ended(msgspec.Struct, tag="ended"):
    """Worker to node: the handler returned or raised an outcome."""

    result: Result | None = None
    no_speech: str = ""
    """Code of a NoSpeech or NoSpeechError."""
    failed: str = ""
    """Code of a JobError."""
    retryable: bool = False
    feature: str = ""
    retry_in_ms: int | None = None


class Raised(msgspec.Struct, tag="raised"):
    """Worker to node: the handler, its loading or the startup hook raised another exception."""

    error: str
    trace: str
    cause: Cause
    in_startup: bool = False


class Line(msgspec.Struct, tag="line"):
    """Worker to node: a line for its log."""

    logger: str
    """Name of the logger; empty for a logger of structlog without a name."""
    level: str
    event: str
    fields: dict[str, Any]
    is_record: bool = False
    """The line was logged with `logging`, not with structlog."""


ToWorker: TypeAlias = Load | Call | Reply
Request: TypeAlias = Partial | Extend
ToNode: TypeAlias = Loaded | Begun | Ended | Raised | Line | Partial | Extend


class ProtocolBroken(EventschedError):
    """Raised when the other end sent bytes that are no frame of this protocol."""


_encoder = msgspec.msgpack.Encoder(enc_hook=repr)


def frame(message: ToWorker | ToNode) -> bytes:
    """Encode a message as a frame. Raises ValueError if it is larger than FRAME_BYTES_MAX."""
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"{len(body)} bytes for another process, at most {FRAME_BYTES_MAX}")
    return _HEADER.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies of the frames that these bytes complete. Raises ProtocolBroken."""
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
    """Serve the node until it closes the socket.

    Arguments: the descriptor of the socket, the pid of the node.
    """
    descriptor, parent = map(int, sys.argv[1:])
    ignore_signals()
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # the node ended before `die_with_parent` took effect
        os._exit(1)
    connection = Connection(socket.socket(fileno=descriptor))
    Worker(connection).run()


def is_worker() -> bool:
    """Whether this process is a worker; a worker must not start workers."""
    return Worker.of_this_process is not None


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM: they ask the node to drain, and the job continues meanwhile.

    The signals get functions that do nothing instead of SIG_IGN, because programs that a handler
    starts inherit SIG_IGN and could not be ended by these signals.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the node blocked them


class Connection:
    """The worker's end of the socket. Any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._process = os.getpid()
        os.set_inheritable(sock.fileno(), False)
        os.register_at_fork(after_in_child=self._close_in_child)

    def _close_in_child(self) -> None:
        """A forked child must not keep the socket open, or the node would wait for the child."""
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
        """The messages of the node, until it closes the socket or ends."""
        decoder = msgspec.msgpack.Decoder(ToWorker)
        frames = Frames()
        while data := self._receive():
            for body in frames.feed(data):
                yield decoder.decode(body)

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except OSError:
            return b""


class Worker:
    """Runs jobs in the main thread; a second thread reads, and notices the end of the node."""

    of_this_process: ClassVar[Worker | None] = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: queue.SimpleQueue[Load | Call | None] = queue.SimpleQueue()
        self._calls = CallsOfProcess(connection)
        self._is_busy = True
        self._handler: Any = None
        self._shutdown: Any = None
        self._in_startup = False

    def run(self) -> None:
        Worker.of_this_process = self
        threading.Thread(target=self._receive_messages, name="node", daemon=True).start()
        with suppress(OSError):  # the node has ended
            while (message := self._messages.get()) is not None:
                self._is_busy = True
                self._connection.send(self._answer(message))
                self._is_busy = False
        if self._shutdown is not None:
            _call_hook(self._shutdown)

    def _receive_messages(self) -> None:
        """Put the node's messages into the queue.

        If the connection ends during a job, kill this process and the programs of its handler.
        """
        for message in self._connection.messages():
            if isinstance(message, Reply):
                self._calls.replies.put(message)
            else:
                self._messages.put(message)
        if self._is_busy:
            end_group()  # the result of the job is not awaited any more
        self._messages.put(None)

    def _answer(self, message: Load | Call) -> ToNode:
        """Process a message. An exception becomes an answer as well."""
        try:
            if isinstance(message, Load):
                self._load(message)
                return Loaded()
            self._connection.send(Begun())
            job: BlockingJob = pickle.loads(message.job)
            connect_calls(job, self._calls)
            answer = self._run(job)
            frame(answer)
            return answer
        except BaseException as error:  # noqa: BLE001 - SystemExit must not end the worker
            trace, _ = trace_of(error)
            return Raised(_repr(error), trace, cause_of(error), in_startup=self._in_startup)

    def _load(self, message: Load) -> None:
        sys.path[:] = message.path
        forward_logs(self._connection, message.log_level, message.root_level)
        if message.main_module or message.main_file:
            load_main(message.main_module, message.main_file)
        self._handler, startup, shutdown = pickle.loads(message.handler)
        ignore_signals()  # again: an imported module may have set signal handlers
        if startup is not None:
            self._in_startup = True
            _call_hook(startup)
            self._in_startup = False
        self._shutdown = shutdown

    def _run(self, job: BlockingJob) -> Ended:
        fields: dict[str, Any] = {
            "session": job.session, "job": job.key, "attempt": job.attempt,
        }  # fmt: skip
        fields |= log_fields(job.traceparent)
        _current.clear()
        _current.update(fields)
        try:
            with bound_contextvars(**fields), current_span(job.traceparent):
                return encode_outcome(self._outcome(job))
        finally:
            _current.clear()

    def _outcome(self, job: BlockingJob) -> Any:
        try:
            returned = self._handler(job)
            if hasattr(returned, "__await__"):
                import asyncio

                returned = asyncio.run(_await(returned))
        except BaseException as error:
            outcome = outcome_of(error)
            if outcome is None:
                raise
            return outcome
        return returned


class CallsOfProcess:
    """The calls of a job whose handler runs in this process: the node makes them."""

    def __init__(self, connection: Connection) -> None:
        self.replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._connection = connection
        self._lock = threading.Lock()

    def partial(self, text: str | None, source_text: str) -> None:
        self._call(Partial(text, source_text))

    def extend(self, seconds: float) -> int:
        return self._call(Extend(seconds)).deadline_ms

    def _call(self, request: Request) -> Reply:
        """Send a request and wait for its reply. Raises what the call raised in the node."""
        with self._lock:
            self._connection.send(request)
            reply = self.replies.get()
        if reply.unavailable:
            raise ServerUnavailable(reply.unavailable)
        if reply.code:
            raise BY_CODE.get(reply.code, Refused)(reply.code, reply.fields)
        return reply


def _call_hook(hook: Any) -> None:
    returned = hook()
    if hasattr(returned, "__await__"):
        import asyncio

        asyncio.run(_await(returned))


_current: dict[str, Any] = {}
"""The fields of the running job in log lines, for all threads of the worker."""


async def _await(awaitable: Any) -> Any:
    return await awaitable


def encode_outcome(outcome: Any) -> Ended:
    """The outcome as a message. Raises TypeError if it is none."""
    if isinstance(outcome, NoSpeech | NoSpeechError):
        return Ended(no_speech=plain_text(outcome.code))
    if isinstance(outcome, JobError):
        outcome = plain_error(outcome)
        return Ended(
            failed=outcome.code,
            retryable=outcome.retryable,
            feature=outcome.feature,
            retry_in_ms=outcome.retry_in_ms,
        )
    if not isinstance(outcome, Result):
        raise no_outcome(outcome)
    return Ended(plain_result(outcome))


def load_main(module: str, file: str) -> None:
    """Load the node's main program as `__main__`, without its `if __name__ == "__main__"` part."""
    name = "__mp_main__"  # as multiprocessing calls it
    if module:
        names = runpy.run_module(module, run_name=name, alter_sys=True)
    else:
        names = runpy.run_path(file, run_name=name)
    main_module = ModuleType(name)
    main_module.__dict__.update(names)
    sys.modules["__main__"] = sys.modules[name] = main_module


def end_group() -> None:
    """End this process and the programs that its handler has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _repr(value: object) -> str:
    try:
        return f"{value!r:.500}".encode(errors="replace").decode()
    except BaseException:  # noqa: BLE001 - `__repr__` of a handler's own class may raise
        return type(value).__name__


# --- log lines ----------------------------------------------------------------------------------


def forward_logs(connection: Connection, log_level: int, root_level: int) -> None:
    """Send all further log lines, of structlog and `logging`, to the node.

    A module that configures structlog or `logging` itself replaces this.
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
    """The logger that structlog wraps; it holds the name only."""

    def __init__(self, *names: Any) -> None:
        self.name = str(names[0]) if names else ""

    def __getattr__(self, method: str) -> Any:
        return lambda *_, **__: None


class _Forward:
    """The last processor of structlog: sends the line."""

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
        except Exception:  # noqa: BLE001 - as all handlers of `logging` do
            self.handleError(record)


def _send_line(connection: Connection, line: Line) -> None:
    """Send a line, or write it to standard error: a log line must not fail a job."""
    line = _bounded(line)
    try:
        if not connection.is_ours:
            raise OSError("a fork of the worker")
        connection.send(line)
    except OSError:
        sys.stderr.write(f"{line.event} {line.fields}\n")


def _bounded(line: Line) -> Line:
    """The line, reduced to short texts if it cannot be encoded or is too long."""
    with suppress(Exception):  # the class of a value may not be encodable
        if len(_encoder.encode(line)) <= LINE_BYTES_MAX:
            return line
    fields = list(line.fields.items())[:FIELDS_MAX]
    return Line(
        shorten(line.logger, VALUE_CHARACTERS_MAX),
        line.level,
        shorten(line.event, VALUE_CHARACTERS_MAX),
        {shorten(_text(name), NAME_CHARACTERS_MAX): _small(value) for name, value in fields},
        line.is_record,
    )


def _small(value: Any) -> Any:
    """The value, or the beginning and end of its text if it cannot be encoded or is large."""
    with suppress(Exception):
        if len(_encoder.encode(value)) <= VALUE_CHARACTERS_MAX:
            return value
    return shorten(_text(value), VALUE_CHARACTERS_MAX)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _repr(value)
