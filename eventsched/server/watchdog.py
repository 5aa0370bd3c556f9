"""The watchdog process: it starts one server and stops the server when the last user has ended.

Owns: the start and the end of one server. It runs as a script of its own in the data folder, with
the standard library only, and in a session of its own, so that Ctrl-C does not reach it.
Never does: choose a program or its options (launch.py), restart a server.
Read next: embedded.py, which describes the whole protocol.

    watchdog.py LOCK_FD

The order is one JSON object on standard input, since all users can read a process's arguments.
`url` is announced once the server runs, `command` starts the server, `config` is the server's
standard input, and `link`, if it is not empty, is removed when the server has ended.

LOCK_FD is the exclusive lock on `server.lock`. This process and the server have it; while it is
locked, a server may write in the folder. Only this process has `watchdog.lock`; a server without a
watchdog is shut down. This process gets the exclusive lock on `users` when the last user has ended;
new users then wait until the server has stopped.
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
    os.umask(0o077)  # only the owner may read the server's files
    if os.fork():
        os._exit(0)  # the starter waits for this process and need not reap the child
    _take(ALIVE)
    server = _start(order["command"], int(lock_fd))
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    _configure(server, order["config"])
    _announce(order["url"], server.pid)
    threading.Thread(target=_stop_when_alone, args=(server,), daemon=True).start()
    server.wait()
    # Paths are relative to the working directory. If the folder was deleted and created again,
    # this does not remove the announcement of the server in the new folder.
    if os.path.exists(ANNOUNCEMENT):
        os.unlink(ANNOUNCEMENT)
    if order["link"] and os.path.islink(order["link"]):
        os.unlink(order["link"])
    os._exit(0)  # the end of the process releases all locks


def _take(path: str) -> None:
    """Take the exclusive lock on the file until the end of the process."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fcntl.flock(os.open(path, flags, 0o600), fcntl.LOCK_EX)


def _start(command: list[str], lock_fd: int) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def die_with_parent() -> None:
        """Let the kernel end the server if the watchdog is killed."""
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        pass_fds=[lock_fd],
        preexec_fn=die_with_parent,  # noqa: PLW1509 - this process has no other thread yet
    )


def _configure(server: subprocess.Popen[bytes], config: str) -> None:
    """Write the configuration to the server; if the server has ended, `wait` reports it."""
    assert server.stdin is not None
    try:
        with server.stdin as pipe:
            pipe.write(os.fsencode(config))
    except BrokenPipeError:
        pass


def _announce(url: str, pid: int) -> None:
    """Write the announcement atomically: readers see all of it or none."""
    draft = f"{ANNOUNCEMENT}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(draft, flags, 0o600), "w") as file:
        json.dump({"url": url, "pid": pid}, file)
    os.rename(draft, ANNOUNCEMENT)


def _stop_when_alone(server: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the last user, then stop the server with SIGTERM.

    On SIGTERM, the server writes and syncs its append-only file before it ends.
    """
    _take(USERS)
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    main()
