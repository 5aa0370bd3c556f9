"""One change of a repair: what it writes, why, and what it gives up.

Owns: the form of a change and its arguments for lua/repair_state.lua.
Must not: do I/O, decide. Read next: repair_session.py, repair_job.py, repair_node.py (which make
changes), repair.py (which applies them).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from eventsched.store.transport import Arg

Step: TypeAlias = Literal["write", "retry", "cancel", "requeue", "fail", "trim", "rebuild"]
Write: TypeAlias = "tuple[Arg, ...]"
"""A command, a key after the prefix of the cell, and more arguments."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change. The log up to `at` implies it."""

    at: str
    where: str
    """The part that is changed, as `verify` names it."""
    what: str
    """The change."""
    reason: str
    """The violation that the change removes."""
    gives_up: str = ""
    """What the change loses; empty if nothing."""
    step: Step = "write"
    session: str = ""
    """Full id, for the event and the fence; likewise the next two."""
    job: str = ""
    node: str = ""
    subjects: tuple[str, ...] = ()
    """More ids for the fence: the change is refused if a later entry of the log concerns one."""
    guards: tuple[tuple[str, str, str], ...] = ()
    """(key after the prefix, field, value): refused if the field has another value."""
    writes: tuple[Write, ...] = ()
    attempt_end: tuple[str, str] = ("", "")
    """Reason and code of the attempt's end, for the steps of jobs."""
    accepts: str = ""
    """Id of the log entry whose violations are accepted."""
    projection: str = ""
    """The read model to rebuild."""

    @property
    def dispatches(self) -> bool:
        """Whether the change queues an utterance for dispatch."""
        return any(write[:2] == ("XADD", "dispatch") for write in self.writes)

    def arguments(self, why: str, by: str) -> list[Arg]:
        """The arguments of lua/repair_state.lua."""
        subjects = [each for each in (self.session, self.job, self.node, *self.subjects) if each]
        arguments: list[Arg] = [self.at, self.session, self.job, self.node, self.where, self.what]
        arguments += [self.gives_up, self.accepts, why, by, len(subjects), *subjects]
        arguments.append(len(self.guards))
        for guard in self.guards:
            arguments += guard
        arguments.append(len(self.writes))
        for write in self.writes:
            arguments += (len(write), *write)
        return arguments


def set_fields(key: str, fields: dict[str, str]) -> list[Write]:
    """Writes that set the fields of a hash; none for no fields."""
    return [("HSET", key, *[part for item in fields.items() for part in item])] if fields else []


def delete_fields(key: str, fields: list[str]) -> list[Write]:
    return [("HDEL", key, *sorted(fields))] if fields else []


def set_timer(kind: str, id_: str, due_ms: int) -> Write:
    return ("ZADD", "timers", due_ms, f"{kind}|{id_}")
