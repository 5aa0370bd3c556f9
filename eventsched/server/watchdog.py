"""The process between the users of a server and the server: it starts it, and it ends it.

Owns: one server's life. Runs as a script of its own, in a session of its own (Ctrl-C in the
starter's terminal does not reach it), in the data folder, with the standard library only.
Never does: choose a program or its settings (launch.py), restart a server.
Read next: embedded.py, which tells the whole protocol.

    watchdog.py LOCK_FD

Standard input brings one JSON object, since the arguments of a process are for everybody to read:
`url` is announced once the server runs, `command` starts it, `config` is its standard input,
`link` (or nothing) is removed when the server has ended. LOCK_FD is the exclusive lock on
`server.lock`, held by this process and by the server: while it is held, a server may be writing in
the folder. `watchdog.lock` is held by this process alone: a
server without it is on its way out. The exclusive lock on `users` comes to this process when the
last user is gone; newcomers then wait until the server has stopped.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

ANNOUNCEMENT = "server.json"
USERS = "users"
ALIVE = "watchdog.lock"
STOP_S = 5.0
_PR_SET_PDEATHSIG = 1


def main() -> None:
    (lock_fd,) = sys.argv[1:]
    order = json.load(sys.stdin.buffer)
    os.umask(0o077)  # what the server writes is its owner's alone
    if os.fork():
        os._exit(0)  # the starter waits for this one; the other belongs to nobody it must reap
    _take(ALIVE)
    server = _start(order["command"], int(lock_fd))
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    _configure(server, order["config"])
    _announce(order["url"], server.pid)
    threading.Thread(target=_stop_when_alone, args=(server,), daemon=True).start()
    server.wait()
    # The folder is the working directory: were it deleted and made anew, the announcement of
    # the server that now runs there is out of reach from here.
    if os.path.exists(ANNOUNCEMENT):
        os.unlink(ANNOUNCEMENT)
    if order["link"] and os.path.islink(order["link"]):
        os.unlink(order["link"])
    os._exit(0)  # with every lock held until this very moment


def _take(path: str) -> None:
    """Hold the file's exclusive lock from here to the end of the process."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fcntl.flock(os.open(path, flags, 0o600), fcntl.LOCK_EX)


def _start(command: list[str], lock_fd: int) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def die_with_parent() -> None:
        """A killed watchdog must not leave a server behind that nobody ends."""
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        pass_fds=[lock_fd],
        preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread is started before this
    )


def _configure(server: subprocess.Popen[bytes], config: str) -> None:
    """The server has its configuration; one that has ended already is seen by `wait`."""
    assert server.stdin is not None
    try:
        with server.stdin as pipe:
            pipe.write(os.fsencode(config))
    except BrokenPipeError:
        pass


def _announce(url: str, pid: int) -> None:
    """Readers see the whole announcement or none."""
    draft = f"{ANNOUNCEMENT}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(draft, flags, 0o600), "w") as file:
        json.dump({"url": url, "pid": pid}, file)
    os.rename(draft, ANNOUNCEMENT)


def _stop_when_alone(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM is SHUTDOWN: the append-only file is written and synced before the server ends."""
    _take(USERS)
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    main()
