"""The exceptions of the public interface.

    EventschedError
    ├── Refused                   a script refuses a call; `code` is one of the stable codes
    │   ├── InvalidMessage        INVALID_MESSAGE: a field, its limit and the remedy
    │   ├── ChunkTooLarge         CHUNK_TOO_LARGE
    │   ├── SeqGap                SEQ_GAP: send again from `expected`
    │   ├── SessionUnknown        SESSION_UNKNOWN
    │   ├── SessionClosedError    SESSION_CLOSED
    │   ├── SessionSuperseded     SESSION_SUPERSEDED
    │   ├── Backpressure          BACKPRESSURE: try again after `retry_after_ms`
    │   ├── NodeUnknown           NODE_UNKNOWN: register again
    │   ├── NodeSuperseded        NODE_SUPERSEDED: a newer process has this id
    │   ├── NodeDrainedError      NODE_DRAINED: an operator has drained the node
    │   ├── LeaseLost             LEASE_LOST, NODE_MISMATCH, ATTEMPT_MISMATCH, DUPLICATE_RESULT
    │   ├── JobUnknown            JOB_UNKNOWN
    │   └── RecordDamaged         STATE_DAMAGED: an item of a batch is refused; repair the cell
    ├── ServerUnavailable         no server answers, or the server cannot be used
    │   ├── ServerAway            no server answers now; a later call may succeed
    │   │   └── CellUnknown       CELL_UNKNOWN: the server does not have this cell
    │   ├── ServerRefused         the server refuses this user, or is not one that can be used
    │   │   └── CommandRefused    the server refuses a command that eventsched needs
    │   └── UnexpectedReply       an error reply that means a defect, or foreign data
    │       └── StateDamaged      STATE_DAMAGED: a stored record cannot be used; repair the cell
    ├── NotFound                  no such session, group, job or node
    ├── Unauthenticated           UNAUTHENTICATED: no token, or one that is not acceptable
    ├── Forbidden                 FORBIDDEN: the role of the token may not do this
    ├── TokenKeyError             a key of tokens cannot be read, or is not acceptable
    ├── KeyMissing                the key of an encrypted session is not in the key store
    ├── KeyStoreError             no key store is named, or it cannot be used
    ├── DecryptionError           ciphertext does not decrypt
    ├── UnreadableRecord          a stored record of a read model cannot be read: rebuild it
    ├── ArchiveError              a folder, file, key or proof of the archive is not valid
    └── MissingDependencyError    a required package is not installed

Owns: the classes, the stable codes, the table from code to class.
Never does: I/O. Read next: lua/README.md (the codes that each script returns).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec


class EventschedError(Exception):
    """Base class of all exceptions that eventsched raises."""


class ServerUnavailable(EventschedError):
    """Raised when no server answers, or when the server cannot be used."""


class ServerAway(ServerUnavailable):
    """Raised when no server answers now, for example during a failover; later calls may succeed."""


class ServerRefused(ServerUnavailable):
    """Raised when a server refuses the user or the client, or when eventsched cannot use it."""


class CommandRefused(ServerRefused):
    """Raised when a server refuses a command that eventsched needs; the message names both."""


class UnexpectedReply(ServerUnavailable):
    """Raised for an error reply that means a defect of eventsched, or data of another program."""


REPAIR = "`eventsched repair --apply --why TEXT`"
"""The command that mends damaged records."""


class StateDamaged(UnexpectedReply):
    """Raised when a function refuses a stored record without a field, or with another value in it.

    The call changed nothing. The message names the record and the field. Calls are repeated, as
    while no server answers, until `eventsched repair` has mended the record.
    """

    code = "STATE_DAMAGED"

    @classmethod
    def of(cls, reply: str) -> StateDamaged:
        """Return the error for the reply `STATE_DAMAGED record=… field=…`."""
        return cls(
            f"{reply}; another program wrote it: `eventsched verify` shows what is damaged, "
            f"{REPAIR} mends it"
        )


class CellUnknown(ServerAway):
    """Raised when the server does not have the cell: its data is lost, or is another server's.

    Roles configure the cell again. Other calls are repeated until then, as while no server answers.
    """

    code = "CELL_UNKNOWN"

    @classmethod
    def of(cls, cell: str) -> CellUnknown:
        """Return the error for a cell."""
        return cls(
            f"{cls.code} cell={cell}; the server does not have this cell: start a role on it "
            "(`eventsched up`), or check the URL"
        )


class NotFound(EventschedError):
    """Raised when no such session, group, job or node exists."""


class Unauthenticated(EventschedError):
    """Raised when a caller shows no token, or one that is not acceptable."""

    code = "UNAUTHENTICATED"


class Forbidden(EventschedError):
    """Raised when the role of a token may not do what its bearer asks for."""

    code = "FORBIDDEN"


class TokenKeyError(EventschedError):
    """Raised when a key that signs or verifies tokens cannot be read, or is not acceptable."""


class KeyMissing(EventschedError):
    """Raised when the key of an encrypted session is not in the key store, or is destroyed."""


class KeyStoreError(EventschedError):
    """Raised when a key store is needed and none is named, or when it cannot be used."""


class DecryptionError(EventschedError):
    """Raised when ciphertext does not decrypt: another key, another place, or other bytes."""


class MissingDependencyError(EventschedError):
    """Raised when a required package of an extra is not installed; the message names it."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingDependencyError:
        """Return the error for a package of an extra."""
        return cls(f"{package} is not installed: pip install 'eventsched[{extra}]'")


def require_packages(*packages: str, extra: str = "archive") -> None:
    """Check that all packages are installed. Raises MissingDependencyError naming the extra."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingDependencyError.of(package, extra)


class UnreadableRecord(EventschedError):
    """Raised when the stored record of a read model cannot be read; the message names both."""

    @classmethod
    def of(cls, projection: str, entity: str, reason: object) -> UnreadableRecord:
        """Return the error for the record of an entity."""
        return cls(
            f"the record of {entity!r} in the read model {projection} cannot be read: {reason}; "
            f"`eventsched rebuild {projection}` folds it from the log again; if the fields of its "
            f"records have changed, raise the version of {projection}, then rebuild"
        )


class ArchiveError(EventschedError):
    """Raised when a folder, file, key or proof of the archive is not valid; nothing changed."""


class Refused(EventschedError):
    """Raised when the scheduler refuses a call; the call changed nothing.

    Args:
        code: The stable code, such as SESSION_CLOSED.
        fields: Further facts, by name, as text.
    """

    remedy = ""
    """Remedy in the message; a field `remedy` takes precedence."""

    def __init__(self, code: str, fields: Mapping[str, str] | None = None) -> None:
        self.code = code
        self.fields = dict(fields or {})
        super().__init__(code, self.fields)

    def __str__(self) -> str:
        facts = [f"{name}={value}" for name, value in self.fields.items() if name != "remedy"]
        remedy = self.fields.get("remedy", self.remedy)
        return " ".join([self.code, *facts]) + (f"; {remedy}" if remedy else "")


class InvalidMessage(Refused):
    """Raised when input is malformed; its fields are `field`, `limit` and `remedy`."""

    @classmethod
    def of(cls, field: str, limit: str, remedy: str) -> InvalidMessage:
        """Return the error for a field, with its limit and the remedy."""
        return cls("INVALID_MESSAGE", {"field": field, "limit": limit, "remedy": remedy})

    def __str__(self) -> str:
        field, limit = self.fields.get("field", "?"), self.fields.get("limit", "?")
        remedy = self.fields.get("remedy")
        return f"INVALID_MESSAGE {field}: {limit}" + (f"; {remedy}" if remedy else "")


class ChunkTooLarge(Refused):
    """Raised when a chunk has more bytes than the limit."""

    remedy = "send shorter chunks"


class SeqGap(Refused):
    """Raised when a chunk number is above the one that the session expects."""

    remedy = "send again from the expected chunk"

    @property
    def expected(self) -> int:
        """The chunk number that the session expects."""
        return int(self.fields["expected"])


class SessionUnknown(Refused):
    """Raised when the session does not exist, or when its records are deleted."""

    remedy = "check the id, or open a new session: closed sessions are retired after some time"


class SessionClosedError(Refused):
    """Raised when a call sends audio or marks to a session that is closing or closed."""

    remedy = "open another session: a closed or idle session accepts no more audio"


class SessionSuperseded(Refused):
    """Raised when another producer has resumed the session."""

    remedy = "stop: another producer has resumed this session"


class Backpressure(Refused):
    """Raised when the cell refuses work for now; `eventsched status` shows the reason.

    The field `cause` says why. The cell refuses everybody for `memory`, `group` (a reader of the
    log is late), `archive` or `dead_letters`. It refuses the tenant of the field `tenant` for
    `tenant_queue` (waiting jobs), `tenant_outbox` (results that nobody has read), `tenant_lag` (log
    entries that the projections have not folded) or, at an open, `tenant_sessions` (sessions that
    are not retired); `seen` is their number, `limit` its bound. It refuses a session for
    `session_outcomes` (1,024 open outcomes) or `session_resumes` (16 resumes in less than 160 s).
    After an append, the field `accepted_bytes` is the number of bytes of audio that count as
    appended; append the rest later.
    """

    remedy = "try again after retry_after_ms; `eventsched status` shows the reason"

    @property
    def retry_after_ms(self) -> int:
        """Milliseconds to wait before the next try."""
        return int(self.fields.get("retry_after_ms", "1000"))

    @property
    def accepted_bytes(self) -> int:
        """Number of bytes of an append's audio that count as appended; 0 for other calls."""
        return int(self.fields.get("accepted_bytes", "0"))


class NodeUnknown(Refused):
    """Raised when the registration of a node no longer exists."""

    remedy = "register again"


class NodeSuperseded(Refused):
    """Raised when a newer process has registered the same node."""

    remedy = "stop, or register another name: a newer process has registered this node"


class NodeDrainedError(Refused):
    """Raised when an operator has drained the node. Its process does not register again."""

    remedy = "stop: an operator has drained this node; `eventsched history` says who and why"


class LeaseLost(Refused):
    """Raised when the attempt is no longer the current one of its job, or the job has ended."""

    remedy = "stop the work on the job: another attempt has it, or it has ended"


class JobUnknown(Refused):
    """Raised when the job does not exist, or when its record is deleted."""

    remedy = "check the key: a job's record is deleted with its session"


class RecordDamaged(Refused):
    """Raised when an item of a batch needs a stored record without a usable field.

    The other items take effect. A whole call is refused with StateDamaged.
    """

    remedy = f"`eventsched verify` shows what is damaged, {REPAIR} mends it"


BY_CODE: dict[str, type[Refused]] = {
    "INVALID_MESSAGE": InvalidMessage,
    "CHUNK_TOO_LARGE": ChunkTooLarge,
    "SEQ_GAP": SeqGap,
    "SESSION_UNKNOWN": SessionUnknown,
    "SESSION_CLOSED": SessionClosedError,
    "SESSION_SUPERSEDED": SessionSuperseded,
    "BACKPRESSURE": Backpressure,
    "NODE_UNKNOWN": NodeUnknown,
    "NODE_SUPERSEDED": NodeSuperseded,
    "NODE_DRAINED": NodeDrainedError,
    "NODE_MISMATCH": LeaseLost,
    "ATTEMPT_MISMATCH": LeaseLost,
    "LEASE_LOST": LeaseLost,
    "DUPLICATE_RESULT": LeaseLost,
    "JOB_UNKNOWN": JobUnknown,
    "STATE_DAMAGED": RecordDamaged,
}
JOB_CODES = frozenset(
    {
        "NO_POOL_FOR_LANG_PAIR",
        "NO_AVAILABLE_NODE",
        "JOB_TIMEOUT",
        "NODE_LOST",
        "MODEL_NOT_AVAILABLE",
        "RESULT_UNREADABLE",
    }
)
"""Codes with which a job fails; nodes may define further codes. They do not refuse a call."""


def from_reply(text: str) -> Refused | None:
    """Return the error for the reply `CODE key=value …`; None if the code is unknown.

    Values may contain blanks, as in `INVALID_MESSAGE field=… limit=…`.
    """
    code, _, rest = text.partition(" ")
    kind = BY_CODE.get(code)
    if kind is None:
        return None
    fields: dict[str, str] = {}
    name = ""
    for word in rest.split(" "):
        key, eq, value = word.partition("=")
        if eq and key.isidentifier():
            name = key
            fields[name] = value
        elif name:
            fields[name] += f" {word}"
    return kind(code, fields)
