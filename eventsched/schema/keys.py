"""Every key there is, and the only place in Python that builds one.

Owns: the layout `es1:{<cell>}:<kind>[:<id>]`, its twin is lua/include/keys.lua (a test holds
them together). All keys of a cell share its hash tag, so each script is legal on a cluster.
Never does: I/O. Read next: lua/README.md.

D decided state: changes only together with an event, no TTL.   S soft state: may be lost.

    log                    stream D  every control event, once, in one total order
    work                   stream D  what dispatch has to look at; trimmed as dispatched
    dead                   stream D  what could not be processed, with reason and origin
    audio:<session>        stream D  AudioChunkAppended with payload
    inbox:<node>           stream D  assignments and cancels of one node
    out:<session>          stream S  what its listeners hear; bounded
    session:<session>      hash   D  + S fields heard, w:*, out_*, confirmed, archived
    outcomes:<session>     hash   D  `<target>/<delivery_no>` -> utterance|first chunk|recipients
    held:<session>         hash   D  results behind a gap: same fields, and `…/body`, `…/audio`
    ready:<session>:<target> zset D  numbers that are ready but wait, by the time they got ready
    playing:<session>      hash   D  open playbacks: `<origin>/<target>/<utterance>` -> until
    room:<room>            hash   D  member session -> language it hears
    job:<job_key>          string D  the job; its existence is the idempotency key
                                  + S while it runs: deadline, which the handler may move
    node:<node>            hash   D  + S fields seen, load
    leases:<node>:<epoch>  zset   D  live attempts by time of dispatch
    classes                set    D  ids of capability classes
    class:<id>             hash   D  asr, targets, services, marked, draining
    members:<class>        set    D  its nodes
    free:<class>           zset   D  its nodes with a free slot, by load
    pair:<src>:<tgt>       set    D  classes that serve the pair
    demands                set    D  demands with waiting jobs
    demands:<class>        zset   D  those that the class serves, least recently looked at first
    waiting:<p>:<demand>   zset   D  waiting jobs by tag
    backlog                hash   D  tenant -> waiting jobs
    fair                   zset   D  tenant -> F; below V dropped
    cell                   hash   D  counters: entry, virtual time, classes, trimmed; pressure
                                  + S field dispatcher: until when one will be back
    clock                  string S  mode|offset|last|stamp (Store.read_clock)
    settings               hash   S  the cell's settings
    timers                 zset   S  due times: `<kind>|<id>`
    active:<set>           hash   S  who folds a set: epoch, until; D passed: entries folded
    checkpoint:<set>       string D  last log id folded and saved
    live:<projection>      string D  `<version>.<build>` that readers read
    view:<p>:<v>.<b>:<id>  hash   D  one record of a read model
    idx:<session>          list   D  log ids of the session
    forgotten              zset   S  the last 10,000 forgotten sessions, by time
    archive                hash   D  to: last log id it holds; of: its key; audio: 0 | 1
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from redis.crc import key_slot

LAYOUT = "es1"
CELLS = f"{LAYOUT}:cells"
"""The one key outside a cell: a set-like list of the cells, fixed at first start."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
CELL = re.compile(r"[a-z0-9]{1,16}")
LANGUAGE = re.compile(r"auto|[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")


def cell_of(full_id: str) -> str:
    """The cell that `<cell>.<name>` lives in."""
    return full_id.partition(".")[0]


def name_of(full_id: str) -> str:
    """The name inside its cell: `c0.abc` -> `abc`."""
    return full_id.partition(".")[2]


def job_key(tenant: str, session: str, utterance: int, target: str, features_hash: str) -> str:
    """What makes a job the same job (rule 10); `session` is the full id."""
    return f"{tenant}:{session}:{utterance}:translation:{target}:{features_hash}"


def pick_cell(name: str, cells: list[str]) -> str:
    """Where a bare name belongs: CRC16(name) mod number of cells."""
    return cells[key_slot(name.encode(), 1 << 16) % len(cells)]


def complete(name: str, cells: list[str]) -> str:
    """`<cell>.<name>` of a name that may or may not be complete already."""
    return name if "." in name else f"{pick_cell(name, cells)}.{name}"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one cell. Arguments are names inside the cell, not full ids."""

    cell: str

    def _key(self, *parts: str) -> str:
        return ":".join((LAYOUT, "{" + self.cell + "}", *parts))

    def full(self, name: str) -> str:
        return f"{self.cell}.{name}"

    @property
    def prefix(self) -> str:
        return self._key("")

    @property
    def log(self) -> str:
        return self._key("log")

    @property
    def work(self) -> str:
        return self._key("work")

    @property
    def dead(self) -> str:
        return self._key("dead")

    @property
    def timers(self) -> str:
        return self._key("timers")

    @property
    def clock(self) -> str:
        return self._key("clock")

    @property
    def settings(self) -> str:
        return self._key("settings")

    @property
    def counters(self) -> str:
        return self._key("cell")

    @property
    def classes(self) -> str:
        return self._key("classes")

    @property
    def demands(self) -> str:
        return self._key("demands")

    @property
    def backlog(self) -> str:
        return self._key("backlog")

    @property
    def fair(self) -> str:
        return self._key("fair")

    @property
    def forgotten(self) -> str:
        return self._key("forgotten")

    @property
    def archive(self) -> str:
        return self._key("archive")

    def audio(self, session: str) -> str:
        return self._key("audio", session)

    def inbox(self, node: str) -> str:
        return self._key("inbox", node)

    def out(self, session: str) -> str:
        return self._key("out", session)

    def session(self, session: str) -> str:
        return self._key("session", session)

    def outcomes(self, session: str) -> str:
        return self._key("outcomes", session)

    def held(self, session: str) -> str:
        return self._key("held", session)

    def ready(self, session: str, target: str) -> str:
        return self._key("ready", session, target)

    def playing(self, session: str) -> str:
        return self._key("playing", session)

    def room(self, room: str) -> str:
        return self._key("room", room)

    def job(self, job_key: str) -> str:
        return self._key("job", job_key)

    def node(self, node: str) -> str:
        return self._key("node", node)

    def leases(self, node: str, epoch: int) -> str:
        return self._key("leases", node, str(epoch))

    def node_class(self, class_id: str) -> str:
        return self._key("class", class_id)

    def members(self, class_id: str) -> str:
        return self._key("members", class_id)

    def free(self, class_id: str) -> str:
        return self._key("free", class_id)

    def pair(self, source: str, target: str) -> str:
        return self._key("pair", source, target)

    def demands_of(self, class_id: str) -> str:
        return self._key("demands", class_id)

    def waiting(self, priority: int, demand: str) -> str:
        return self._key("waiting", str(priority), demand)

    def active(self, projection_set: str) -> str:
        return self._key("active", projection_set)

    def checkpoint(self, projection_set: str) -> str:
        return self._key("checkpoint", projection_set)

    def live(self, projection: str) -> str:
        return self._key("live", projection)

    def view(self, projection: str, build: str, entity: str) -> str:
        """`build` is `<version>.<build>`."""
        return self._key("view", projection, build, entity)

    def idx(self, session: str) -> str:
        return self._key("idx", session)
