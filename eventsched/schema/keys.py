"""Every Redis key: the list of keys, and the functions that build their names.

Owns: the layout `es1:{<cell>}:<kind>[:<id>]`. No other Python module builds a key. The Lua twin is
lua/include/keys.lua; a test compares the two. All keys of a cell have the same hash tag, so one
script may use all of them on a cluster.
Never does: I/O. Read next: lua/README.md.

D  authoritative state: it changes only together with an event and has no TTL.
S  ephemeral state: it may be lost.

    log                     stream D  all control events of the cell, in one total order
    dispatch                stream D  the dispatch queue: utterances and slots to fill; trimmed
    dead_letters            stream D  entries that could not be processed, with reason and origin
    audio:<session>         stream D  AudioChunkAppended with payload
    inbox:<node>            stream D  assignments and cancels of one node
    outbox:<session>        stream S  results for the session's listeners; bounded
    partials:<session>      stream S  the newest 32 partial results for the session's listeners
    session:<session>       hash   D  + S fields buffer, out_*, confirmed, archived, retire_at,
                                     resumes_until, missing
    outcomes:<session>      hash   D  `<target>/<delivery_no>` -> utterance|first chunk|recipients
    out_of_order:<session>  hash   D  results after a gap: same fields, and `…/body`, `…/audio`
    out_of_order_at:<session>:<target> zset D  delivery numbers after a gap, by ready time
    playing:<session>       hash   D  open playbacks: `<origin>/<target>/<utterance>` -> deadline
    room:<tenant>/<room>    hash   D  member session -> language that it listens to
    job:<job_key>           string D  the job; its existence is the idempotency key
                                   + S while it runs: the deadline of the attempt's lease
    node:<node>             hash   D  + S fields seen, load, unreadable (count|since),
                                     failures (count|session|tenant|spread|suspensions),
                                     lost (epoch|id of NodeLost)
    leases:<node>:<epoch>   zset   D  live attempts, by time of dispatch
    classes                 set    D  ids of capability classes
    class:<id>              hash   D  sources, targets, features, suspended, draining
    members:<class>         set    D  nodes of the capability class
    free:<class>            zset   D  its nodes that have a free slot, by load
    pair:<src>:<tgt>        set    D  capability classes that serve the language pair
    requirements            hash   D  requirement with waiting jobs -> place of its next job
    requirements:<class>    zset   D  `<place>:<requirement>` that the class can serve, in order
    waiting:<p>:<requirement> zset D  waiting jobs, by tag; of jobs that avoid a node, the
                                     requirement ends with `|<node>`, as in requirements
    waiting_tags            zset   D  all waiting jobs, by tag
    backoffs                zset   D  `<requirement> <job_key>` of jobs that back off, by its end
    tenant_queued           hash   D  tenant -> jobs that wait for a slot, or back off
    tenant_undispatched     hash   D  tenant -> outcomes of utterances in the dispatch queue
    tenant_outbox           hash   S  tenant -> bytes of results that wait to be read
    tenant_sessions:<tenant> set   D  names of its sessions that are not retired
    tenant_lag              hash   S  tenant that is refused for its lag -> log entries not folded
    tenant_refused          hash   S  `<tenant>|<reason>` that the log says is refused -> backlog
    tenant_finish_tag       zset   D  tenant -> F of fair queuing; dropped if it charges nothing
    counters                hash   D  entry count, virtual time, classes, trimmed; backpressure
                                   set_aside: the last segments that were set aside
                                   retired_epoch: the highest epoch of a deleted node
                                   + S field dispatcher: end of the dispatcher's presence lease
    clock                   hash   S  record: mode|offset|last|generation (Store.read_clock)
    settings                hash   S  the cell's settings
    timers                  zset   S  due times: `<kind>|<id>`
    stalled_timers          zset   S  timers whose last calls had no effect: number of these calls
    lease:<set>             hash   S  owner of a projection set: epoch, until; D passed: count
    checkpoint:<set>        string D  last log id folded and saved
    active_revision:<projection> string D  `<version>.<revision>` that readers use
    view:<p>:<revision>:<id> hash  D  one record of a read model
    view_ids:<p>:<revision> zset   D  ids of the records of a read model, all with score 0
    node_index:<node>       list   D  log ids of the node's events; trimmed with the log
    node_index_starts       zset   D  node -> time of the first entry in its index
    session_index:<session> list   D  log ids of the session's events; trimmed as it grows
    session_index_ends      zset   D  session -> time of the last entry in its index
    erased                  zset   S  the last 10,000 erased sessions, by time
    archive                 hash   D  to: last archived log id; of: key fingerprint; audio: 0 | 1
    presence                hash   S  the roles of processes:
                                      `<role>|<set>|<instance>` -> seen|since|state|error
    operator_requests       hash   S  the last 1,024 acts of operators: request -> time|reply

Every call of a script declares two keys: `log`, and `absent`, which never exists and which no
script reads or writes. While a Redis Cluster moves the slot of a cell key by key, a server refuses
a call that declares a key which it does not have (TRYAGAIN, or ASK to the other server, which
replies TRYAGAIN). So a call is refused before its script runs. With the log alone, a script would
run, and fail at the first key that is on the other server, after some of its writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from redis.crc import key_slot

LAYOUT = "es1"
SINGLE_TYPES = {
    "log": "stream", "dispatch": "stream", "dead_letters": "stream", "classes": "set",
    "requirements": "hash", "tenant_queued": "hash", "tenant_undispatched": "hash",
    "tenant_outbox": "hash", "tenant_lag": "hash", "tenant_finish_tag": "zset", "counters": "hash",
    "clock": "hash", "settings": "hash", "timers": "zset", "stalled_timers": "zset",
    "lease:core": "hash", "checkpoint:core": "string", "node_index_starts": "zset",
    "backoffs": "zset", "session_index_ends": "zset", "erased": "zset", "archive": "hash",
    "presence": "hash", "operator_requests": "hash", "tenant_refused": "hash",
}  # fmt: skip
"""The types of the keys of a cell that exist once."""
CELLS = f"{LAYOUT}:cells"
"""The only key outside a cell: the list of the cells, fixed at the first start."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
CELL = re.compile(r"[a-z0-9]{1,16}")
FULL_ID = re.compile(rf"{CELL.pattern}\.{NAME.pattern}")
_JOB_KEY_PARTS = 6
_JOB_KEY = re.compile(rf"[^:]*:{FULL_ID.pattern}:(?:0|[1-9][0-9]{{0,15}}):[^:]*:[^:]*:[^:]*")
LANGUAGE = re.compile(r"auto|[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")


def cell_of(full_id: str) -> str:
    """Return the cell of a full id: `c0.abc` -> `c0`."""
    return full_id.partition(".")[0]


def cell_of_key(key: str) -> str:
    """Return the cell of a key: `es1:{c0}:log` -> `c0`."""
    return key.partition("{")[2].partition("}")[0]


def name_of(full_id: str) -> str:
    """Return the name of a full id: `c0.abc` -> `abc`."""
    return full_id.partition(".")[2]


def job_key(tenant: str, session: str, utterance: int, target: str, features_hash: str) -> str:
    """Return the key of a job (rule 10, job identity); `session` is the full id."""
    return f"{tenant}:{session}:{utterance}:translation:{target}:{features_hash}"


def session_of_job(key: str) -> str:
    """Return the full id of the session in a job key; empty if the text is no job key."""
    parts = key.split(":")
    return parts[1] if len(parts) == _JOB_KEY_PARTS and "." in parts[1] else ""


def is_job_key(text: str) -> bool:
    """Return whether the text has the form of a job key, which an event of any program may lack."""
    return _JOB_KEY.fullmatch(text) is not None


def tenant_of_job(key: str) -> str:
    """Return the tenant in a job key."""
    return key.partition(":")[0]


def pick_cell(name: str, cells: list[str]) -> str:
    """Return the cell of a name without a cell: number CRC16(name) mod the number of cells."""
    return cells[key_slot(name.encode(), 1 << 16) % len(cells)]


def complete(name: str, cells: list[str]) -> str:
    """Return the full id of a name; a full id is returned unchanged."""
    return name if "." in name else f"{pick_cell(name, cells)}.{name}"


def room_id(tenant: str, room: str, cells: list[str]) -> str:
    """Return the full id of a tenant's room, `<cell>.<tenant>/<name>`.

    Rooms are named within their tenant: one name at two tenants is two rooms. No name has a `/`.

    Args:
        tenant: Name of the tenant.
        room: Name of the room, or `<cell>.<name>`; the cell of a bare name is computed.
        cells: Names of the cells of the server.
    """
    cell, _, name = room.rpartition(".")
    within = f"{tenant}/{name}"
    return f"{cell or pick_cell(within, cells)}.{within}"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one cell. Arguments are names without the cell, not full ids."""

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
    def absent(self) -> str:
        """Return the key that never exists, which every call declares beside the log."""
        return self._key("absent")

    @property
    def declared(self) -> tuple[str, str]:
        """Return the keys that every call of a script declares."""
        return self.log, self.absent

    @property
    def dispatch(self) -> str:
        return self._key("dispatch")

    @property
    def dead_letters(self) -> str:
        return self._key("dead_letters")

    @property
    def timers(self) -> str:
        return self._key("timers")

    @property
    def stalled_timers(self) -> str:
        return self._key("stalled_timers")

    @property
    def clock(self) -> str:
        return self._key("clock")

    @property
    def settings(self) -> str:
        return self._key("settings")

    @property
    def counters(self) -> str:
        return self._key("counters")

    @property
    def classes(self) -> str:
        return self._key("classes")

    @property
    def requirements(self) -> str:
        return self._key("requirements")

    @property
    def tenant_outbox(self) -> str:
        return self._key("tenant_outbox")

    def tenant_sessions(self, tenant: str) -> str:
        return self._key("tenant_sessions", tenant)

    @property
    def tenant_lag(self) -> str:
        return self._key("tenant_lag")

    @property
    def tenant_refused(self) -> str:
        return self._key("tenant_refused")

    @property
    def waiting_tags(self) -> str:
        return self._key("waiting_tags")

    @property
    def tenant_queued(self) -> str:
        return self._key("tenant_queued")

    @property
    def backoffs(self) -> str:
        return self._key("backoffs")

    @property
    def tenant_undispatched(self) -> str:
        return self._key("tenant_undispatched")

    @property
    def tenant_finish_tag(self) -> str:
        return self._key("tenant_finish_tag")

    @property
    def erased(self) -> str:
        return self._key("erased")

    @property
    def archive(self) -> str:
        return self._key("archive")

    @property
    def presence(self) -> str:
        return self._key("presence")

    @property
    def operator_requests(self) -> str:
        return self._key("operator_requests")

    def audio(self, session: str) -> str:
        return self._key("audio", session)

    def inbox(self, node: str) -> str:
        return self._key("inbox", node)

    def outbox(self, session: str) -> str:
        return self._key("outbox", session)

    def partials(self, session: str) -> str:
        return self._key("partials", session)

    def session(self, session: str) -> str:
        return self._key("session", session)

    def outcomes(self, session: str) -> str:
        return self._key("outcomes", session)

    def out_of_order(self, session: str) -> str:
        return self._key("out_of_order", session)

    def out_of_order_at(self, session: str, target: str) -> str:
        return self._key("out_of_order_at", session, target)

    def playing(self, session: str) -> str:
        return self._key("playing", session)

    def room(self, room: str) -> str:
        """Return the key of the members of a room; `room` is `<tenant>/<name>`."""
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

    def requirements_of(self, class_id: str) -> str:
        return self._key("requirements", class_id)

    def waiting(self, priority: int, requirement: str) -> str:
        return self._key("waiting", str(priority), requirement)

    def lease(self, projection_set: str) -> str:
        return self._key("lease", projection_set)

    def checkpoint(self, projection_set: str) -> str:
        return self._key("checkpoint", projection_set)

    def active_revision(self, projection: str) -> str:
        return self._key("active_revision", projection)

    def view(self, projection: str, revision: str, entity: str) -> str:
        """Return the key of a read model's record; `revision` is `<version>.<revision>`."""
        return self._key("view", projection, revision, entity)

    def view_ids(self, projection: str, revision: str) -> str:
        """Return the key of the list of a read model's ids."""
        return self._key("view_ids", projection, revision)

    def node_index(self, node: str) -> str:
        return self._key("node_index", node)

    @property
    def node_index_starts(self) -> str:
        return self._key("node_index_starts")

    def session_index(self, session: str) -> str:
        return self._key("session_index", session)

    @property
    def session_index_ends(self) -> str:
        return self._key("session_index_ends")
