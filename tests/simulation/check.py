"""What must hold at the end of a seed, from the log and from the observations outside.

Owns: the guarantees as a reader of the log sees them, written without the folds of the product.
Only decisions are computed again by the replay of the product, which shares nothing with its
scripts.
Read next: eventsched/audit/verify.py (the same from stored state, on any system).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from eventsched.audit.replay import Replay
from eventsched.audit.scheduler_state import SchedulerState
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    JobFailed,
    NodeRegistered,
    ResultRecorded,
    ResultReplaced,
    SessionOpened,
    UtteranceFinalized,
)
from eventsched.schema.ids import parse_id
from tests.simulation.actors import Observations


def violations(log: Sequence[Event], observations: Observations) -> list[str]:
    """Every violation, one line each."""
    return [
        *observations.broken,
        *_order(log),
        *_chunks(log, observations),
        *_attempts(log),
        *_epochs(log),
        *_slots(log),
        *_outcomes(log),
        *_decisions(log),
        *_heard(observations),
        *_erased(log),
        *_rooms(log),
    ]


def _erased(log: Sequence[Event]) -> list[str]:
    """A session is erased once, after its close, however often the call is repeated."""
    closed: set[str] = set()
    erased: set[str] = set()
    broken = []
    for event in log:
        if event.type == "SessionClosed":
            closed.add(event.session)
        elif event.type == "SessionErased":
            if event.session not in closed or event.session in erased:
                broken.append(f"{event.session}: erased twice, or before its close")
            erased.add(event.session)
    return broken


def _rooms(log: Sequence[Event]) -> list[str]:
    """Only members of its room, which are sessions of its tenant, hear a session (rule 12)."""
    rooms: dict[str, tuple[str, str]] = {}
    broken = []
    for event in log:
        data = event.data
        if isinstance(data, SessionOpened):
            rooms[event.session] = data.tenant, data.room
        elif isinstance(data, UtteranceFinalized):
            recipients = {session for target in data.targets for session in target.to}
            strangers = [who for who in recipients if rooms[who] != rooms[event.session]]
            if strangers:
                broken.append(f"{event.session}: {strangers} hear it, and are not in its room")
    return broken


def _order(log: Sequence[Event]) -> list[str]:
    ids = [parse_id(event.id) for event in log]
    return [] if ids == sorted(set(ids)) else ["the log's ids do not rise"]


def _chunks(log: Sequence[Event], observations: Observations) -> list[str]:
    """Every acknowledged byte is in exactly one utterance (rules 2, 6, 7)."""
    covered: dict[str, Counter[int]] = defaultdict(Counter)
    closed = {event.session for event in log if event.type == "SessionClosed"}
    for event in log:
        if isinstance(event.data, UtteranceFinalized):
            first = event.data.first_seq
            covered[event.session].update(range(first, first + event.data.count))
    broken = []
    for session, acked in observations.acked.items():
        lost = [seq for seq, size in acked.items() if size > 0 and not covered[session][seq]]
        twice = [seq for seq, times in covered[session].items() if times > 1]
        if session in closed and lost:
            broken.append(f"{session}: acknowledged chunks {lost[:5]} are in no utterance")
        if twice:
            broken.append(f"{session}: chunks {twice[:5]} are in two utterances")
    return broken


def _attempts(log: Sequence[Event]) -> list[str]:
    """One dispatch per attempt, one end per job, and only the current token counts (11, 21, 23)."""
    broken: list[str] = []
    current: dict[str, tuple[str, int, int]] = {}
    started: set[tuple[str, int]] = set()
    ended: set[str] = set()
    for event in log:
        data, job = event.data, event.job
        if isinstance(data, JobDispatched):
            if (job, data.attempt) in started:
                broken.append(f"{job}: attempt {data.attempt} dispatched twice")
            if job in current:
                broken.append(f"{job}: two attempts live at {event.id}")
            started.add((job, data.attempt))
            current[job] = (event.node, data.epoch, data.attempt)
        elif isinstance(data, ResultReplaced):
            continue
        elif isinstance(data, ResultRecorded | AttemptEnded):
            token = (event.node, data.epoch, data.attempt)
            if current.pop(job, None) != token:
                broken.append(f"{job}: {event.type} by {token}, which was not current")
        if isinstance(data, ResultRecorded | JobFailed):
            if job in ended:
                broken.append(f"{job}: ended twice")
            ended.add(job)
    return broken


def _epochs(log: Sequence[Event]) -> list[str]:
    """The epochs of a node rise, also after its record was deleted (13, node registration)."""
    last: dict[str, int] = {}
    broken = []
    for event in log:
        if isinstance(event.data, NodeRegistered):
            if event.data.epoch <= last.get(event.node, 0):
                broken.append(f"{event.node}: epoch {event.data.epoch} again at {event.id}")
            last[event.node] = event.data.epoch
    return broken


def _slots(log: Sequence[Event]) -> list[str]:
    """A registration never holds more leases than it has slots (16, choosing a node)."""
    slots: dict[tuple[str, int], int] = {}
    live: Counter[tuple[str, int]] = Counter()
    broken = []
    for event in log:
        data = event.data
        if isinstance(data, NodeRegistered):
            slots[event.node, data.epoch] = data.slots
        elif isinstance(data, JobDispatched):
            live[event.node, data.epoch] += 1
            if live[event.node, data.epoch] > slots[event.node, data.epoch]:
                broken.append(f"{event.node}: more live attempts than slots at {event.id}")
        elif isinstance(data, ResultRecorded | AttemptEnded) and not isinstance(
            data, ResultReplaced
        ):
            live[event.node, data.epoch] -= 1
    return broken


def _outcomes(log: Sequence[Event]) -> list[str]:
    """Each number ends in exactly one of the four, in order, without holes (25)."""
    expected: dict[tuple[str, str], list[int]] = defaultdict(list)
    ended: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in log:
        if isinstance(event.data, UtteranceFinalized):
            for target in event.data.targets:
                expected[event.session, target.target].append(target.delivery_no)
        delivery = delivery_of(event.data)
        if delivery is not None:
            ended[event.session, delivery.target].append(delivery.delivery_no)
    return [
        f"{session} {target}: expected {expected[session, target][-3:]}, "
        f"delivered {ended[session, target][-3:]}"
        for session, target in expected
        if expected[session, target] != list(range(len(expected[session, target])))
        or ended[session, target] != expected[session, target]
    ]


def _decisions(log: Sequence[Event]) -> list[str]:
    """Every choice of a node and every wait follows from the log before it (15 to 18, 20)."""
    replay = Replay(SchedulerState.empty())
    for event in log:
        replay.add(event)
    return [str(difference) for difference in replay.report.differences]


def _heard(observations: Observations) -> list[str]:
    """The entries of one (speaker, target) at a listener are in order, each once."""
    broken = []
    for listener, entries in observations.entries.items():
        last: dict[tuple[str, str], int] = {}
        for result in entries:
            key = (result["session"], result["target"])
            if result["delivery_no"] <= last.get(key, -1):
                broken.append(f"{listener}: {key} got {result['delivery_no']} after {last[key]}")
            last[key] = result["delivery_no"]
    return broken
