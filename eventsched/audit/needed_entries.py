"""Chooses the entries that `why` needs of a history, by their stored fields, without decoding.

Owns: which entries a job's explanation depends on, and which entries the nodes and the waiting jobs
depend on at a later position. So most of a long history is read and not decoded.
Must not: do I/O, fold. Read next: service.py, explain.py (the explanation).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from eventsched.schema.events import FIELDS
from eventsched.store.transport import Entry

_LENGTH = 2 * len(FIELDS)
_TYPE, _JOB, _DATA = (2 * FIELDS.index(name) + 1 for name in ("t", "j", "d"))
_DELIVERING = (b"ResultRecorded", b"ResultDelivered", b"ResultMissing")
_OF_JOBS = (b"JobQueued", b"JobPromoted", b"JobDispatched", b"AttemptEnded")
_NUMBER = re.compile(rb'"delivery_no":\s*(\d{1,18})\b')
_ENDS = (b"JobFailed", b"ResultMissing")


class JobEntries:
    """The entries of a session that explain one job of it.

    These are the entries of the job, that of its utterance, the first one of the session, and the
    delivery of the number before that of the job. A few others may be among them.
    """

    def __init__(self, utterance: int, is_job: Callable[[str], bool]) -> None:
        """`is_job` says whether a key is that of the job."""
        self._is_job = is_job
        self._utterance = re.compile(rb'"utterance":\s*%d\b' % utterance)
        self._numbers: re.Pattern[bytes] | None = None
        """Finds the delivery numbers before those of the utterance."""
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Look at the next entry of the session."""
        fields = entry[1]
        if len(fields) == _LENGTH and self._is_needed(fields):
            self.entries.append(entry)

    def _is_needed(self, fields: list[bytes]) -> bool:
        kind, job, data = fields[_TYPE], fields[_JOB], fields[_DATA]
        if kind == b"UtteranceFinalized":
            if self._utterance.search(data) is None:
                return False
            numbers = [int(number) for number in _NUMBER.findall(data)]
            before = b"|".join(b"%d" % (number - 1) for number in numbers if number)
            if before:
                self._numbers = re.compile(rb'"delivery_no":\s*(?:%s)\b' % before)
            return True
        if kind == b"SessionOpened" or (job and self._is_job(job.decode(errors="replace"))):
            return True
        if kind in _DELIVERING and self._numbers is not None:
            return self._numbers.search(data) is not None
        return False


class OpenEntries:
    """The entries on which the nodes and the waiting jobs depend at the last entry.

    The entries of a job that has ended, and whose attempts have ended, change neither. The history
    must be read from its first entry.
    """

    def __init__(self) -> None:
        self._count = 0
        self._of_nodes: list[tuple[int, Entry]] = []
        self._by_job: dict[bytes, list[tuple[int, Entry]]] = {}

    def add(self, entry: Entry) -> None:
        """Look at the next entry of the history."""
        fields = entry[1]
        if len(fields) != _LENGTH:
            return
        kind, job = fields[_TYPE], fields[_JOB]
        self._count += 1
        if kind == b"ResultRecorded":  # it ends the job and the attempt
            self._by_job.pop(job, None)
        elif kind in _OF_JOBS:
            entries = self._by_job.setdefault(job, [])
            entries.append((self._count, entry))
            if kind == b"AttemptEnded" and len(entries) > 1 and _kind(entries[-2]) in _ENDS:
                del self._by_job[job]
        elif kind in _ENDS and job in self._by_job:
            entries = self._by_job[job]
            if _kind(entries[-1]) == b"JobDispatched":  # its end follows
                entries.append((self._count, entry))
            else:
                del self._by_job[job]
        elif kind.startswith(b"Node"):
            self._of_nodes.append((self._count, entry))

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in the order of the history."""
        of_jobs = [each for entries in self._by_job.values() for each in entries]
        for _, entry in sorted([*self._of_nodes, *of_jobs], key=lambda each: each[0]):
            yield entry


def _kind(numbered: tuple[int, Entry]) -> bytes:
    return numbered[1][1][_TYPE]
