"""Faults that somebody could make in the Python, each a replacement of some source.

Owns: which faults, in which function, and which tests should notice. A fault is found by its
function's name and its tokens wherever they are in the packages: a module may move, and its format
may change. One whose source is not there exactly once stops the run.
Never does: the scripts (lua.py changes them everywhere). Read next: bench.py.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from tests.mutants.mutant import ROOT, Anchor, Mutant

PACKAGES = ("eventsched", "projections")
PROJECTOR = "tests/projector/test_projector.py"
IDS = "tests/unit/test_ids.py"
VERIFY = "tests/verify/test_verify.py"
FOLDS = "tests/projections"
NODE = "tests/client/test_node.py"
SESSION = "tests/client/test_session.py"
BUFFER = "tests/unit/test_append_buffer.py"
LOOPS, INTEGRATION = "tests/integration/test_loops.py", "tests/integration"
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
_LAYOUT |= {tokenize.ENDMARKER}


class Stale(Exception):
    """Raised when a fault's source is not in the packages exactly once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """In `function`, the code `old` becomes `new`; `tests` should notice, the likeliest first."""

    why: str
    function: str
    old: str
    new: str
    tests: tuple[str, ...]

    def mutant(self, root: Path = ROOT) -> Mutant:
        tokens = [token.string for token in _tokens(self.old)]
        places = [
            place
            for function in _functions(root).get(self.function, ())
            for place in function.places(tokens)
        ]
        if len(places) != 1:
            raise Stale(f"{self.why}: {self.function} has {self.old!r} at {len(places)} places")
        file, line, start, end = places[0]
        anchor = Anchor(self.function, "chosen", " ".join(tokens))
        return Mutant(file, line, anchor, self.why, start, end, self.new)


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of a module: `source` from its first line, which is `first_line` of the file."""

    file: str
    first_line: int
    starts_at: int
    source: str

    def places(self, wanted: list[str]) -> Iterator[tuple[str, int, int, int]]:
        """(file, line, first byte, end) of each place that has these tokens."""
        tokens = list(_tokens(self.source))
        for at in range(len(tokens) - len(wanted) + 1):
            found = tokens[at : at + len(wanted)]
            if [token.string for token in found] == wanted:
                line = self.first_line + found[0].start[0] - 1
                yield self.file, line, self._byte(found[0].start), self._byte(found[-1].end)

    def _byte(self, position: tuple[int, int]) -> int:
        row, column = position
        lines = self.source.splitlines(keepends=True)
        before = "".join(lines[: row - 1]) + lines[row - 1][:column]
        return self.starts_at + len(before.encode())


@cache
def _functions(root: Path) -> Mapping[str, list[_Function]]:
    """Every function of both packages, by its name; a method by its own name alone."""
    found: dict[str, list[_Function]] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            lines = source.splitlines(keepends=True)
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert node.end_lineno is not None
                    before, text = (
                        lines[: node.lineno - 1],
                        lines[node.lineno - 1 : node.end_lineno],
                    )
                    found.setdefault(node.name, []).append(
                        _Function(
                            path.relative_to(root).as_posix(),
                            node.lineno,
                            len("".join(before).encode()),
                            "".join(text),
                        )
                    )
    return MappingProxyType(found)


def _tokens(code: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens of a part of a program: without layout and comments, ended where it ends."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type not in _LAYOUT and token.string:
                yield token
    except (tokenize.TokenError, IndentationError):
        return  # a bracket or a block is open: what is there has been read


FAULTS = (
    Fault(
        "what a zombie saves counts",
        "_fold_and_save",
        'if reply != "saved":',
        'if reply == "never":',
        (PROJECTOR,),
    ),
    Fault(
        "a projector that has lost its lease reads on",
        "_renew",
        'self._lose_lease("fenced")',
        'StepResult("idle")',
        (PROJECTOR,),
    ),
    Fault(
        "the consumer group passes more than was folded",
        "_save",
        "count=batch.count,",
        "count=batch.count + 1,",
        (PROJECTOR,),
    ),
    Fault(
        "what was folded before is folded again",
        "_read",
        "read_log(self.checkpoint, ",
        "read_log(START, ",
        (PROJECTOR,),
    ),
    Fault(
        "after an error memory is trusted",
        "step",
        "self._lease, self._batches = None, None",
        "pass",
        (PROJECTOR,),
    ),
    Fault(
        "a batch is folded out of order",
        "fold",
        "for at, event in enumerate(events):",
        "for at, event in reversed(list(enumerate(events))):",
        (PROJECTOR,),
    ),
    Fault(
        "poison is tried for ever",
        "_has_more_tries",
        "return tries < self._tries_max",
        "return True",
        (PROJECTOR,),
    ),
    Fault(
        "poison is dropped, not dead-lettered",
        "_save",
        "dead_letters=[self._batches.dead_letter(failed) for failed in batch.dead_letters],",
        "dead_letters=[],",
        (PROJECTOR,),
    ),
    Fault(
        "records that changed are saved again for ever",
        "clear_changes",
        "self.changed.clear()",
        "pass",
        (
            PROJECTOR,
            VERIFY,
        ),
    ),
    Fault(
        "ids are compared as text",
        "parse_id",
        "return int(ms), int(seq or 0)",
        "return ms, seq  # type: ignore[return-value]",
        (
            IDS,
            VERIFY,
        ),
    ),
    Fault(
        "a revision goes live without having caught up",
        "_fold_and_promote",
        'if reply == "switched":',
        'if reply in ("switched", "behind"):',
        (PROJECTOR,),
    ),
    Fault(
        "a dispatcher waits for what comes after its wait",
        "wait",
        "{key: self._last_id}",
        '{key: "$"}',
        (
            LOOPS,
            INTEGRATION,
        ),
    ),
    Fault(
        "a dispatcher outruns its nodes",
        "pause_s",
        "return reply.waiting / reply.jobs",
        "return 0 * reply.waiting / reply.jobs",
        (
            LOOPS,
            INTEGRATION,
        ),
    ),
    Fault(
        "a dispatcher does not renew its presence lease",
        "step",
        "dispatch_jobs(PRESENCE_LEASE_MS, self._consumer)",
        "dispatch_jobs(0, self._consumer)",
        (
            LOOPS,
            INTEGRATION,
        ),
    ),
    Fault(
        "a timer forgets what is already due",
        "pause_ms",
        "return min(max(reply.next_ms - reply.now_ms, 0), CALL_MS_MAX)",
        "return reply.next_ms - reply.now_ms",
        (
            LOOPS,
            INTEGRATION,
        ),
    ),
    Fault(
        "a slot leaks when an attempt ends",
        "_attempt_ended",
        "return replace(view, live=_without(view, event.job, data), ended=view.ended + 1)",
        "return replace(view, ended=view.ended + 1)",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "any attempt's end gives the slot back",
        "_without",
        "if attempt is None or (attempt.attempt, attempt.epoch) != (data.attempt, data.epoch):",
        "if attempt is None:",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "a turn ends where an utterance was cut by its length",
        "_finalized",
        'turn=data.turn if data.reason == "max_duration" else data.turn + 1,',
        "turn=data.turn + 1,",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "a replaced result loses its place in time",
        "_job_ended",
        "ready_ms = pending.ready_ms or event.ms",
        "ready_ms = event.ms",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "the event of a result does not deliver it",
        "_recorded",
        "_job_ended(view, event, data) if delivery is None else _end(view, event, delivery)",
        "_job_ended(view, event, data)",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "a cancelled attempt brings its job back",
        "_attempt_ended",
        'if view.status == "ended":',
        "if False:",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "exactly two seconds no longer join a group",
        "is_joinable",
        "at_ms - group.last_part_ms <= JOIN_MS",
        "at_ms - group.last_part_ms < JOIN_MS",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "a new group loses its open playbacks",
        "_delivered",
        "group = Group(n=group.n + 1, active=True, playbacks=group.playbacks)",
        "group = Group(n=group.n + 1, active=True)",
        (
            FOLDS,
            VERIFY,
        ),
    ),
    Fault(
        "audio that may not have arrived is forgotten",
        "_flush",
        "self._buffer.confirm(len(confirmed))",
        "self._buffer.confirm(len(batch))",
        (SESSION,),
    ),
    Fault(
        "a refused append keeps its number",
        "withdraw",
        "self.next_seq = chunk.seq",
        "pass",
        (BUFFER, SESSION),
    ),
    Fault(
        "a gap is not filled with stored chunks",
        "resend",
        "chunks = (chunk for chunk in chain(self._stored, batch) if chunk.seq >= expected)",
        "chunks = (chunk for chunk in batch if chunk.seq >= expected)",
        (BUFFER, SESSION),
    ),
    Fault(
        "a result counts as handled when it is taken",
        "_next_entry",
        "self._taken = entry.id",
        "self._taken = self._handled = entry.id",
        (SESSION,),
    ),
    Fault(
        "a quiet session says nothing",
        "_keep_alive",
        "if p.quiet_s >= due_s",
        "if p.quiet_s > 10 * due_s",
        (f"{SESSION}::test_rule_8_a_shorter_idle_time_is_kept_alive_more_often",),
    ),
    Fault(
        "replies go to the wrong callers",
        "_send",
        "start += count",
        "start += 0",
        (
            "tests/unit/test_batcher.py",
            SESSION,
        ),
    ),
    Fault(
        "a reader that was overtaken gets no error",
        "_enqueue",
        "if entry.number != self._expected:",
        "if entry.number < self._expected:",
        (
            "tests/unit/test_subscription.py",
            SESSION,
        ),
    ),
    Fault(
        "a lost node keeps its name",
        "send_heartbeats",
        "post(partial(registration.on_end, error))",
        "pass",
        (
            f"{NODE}::test_an_attempt_that_the_cancel_missed_is_stopped_by_the_heartbeat",
            f"{NODE}::test_rule_13_a_lost_node_registers_again_and_drops_what_it_held",
        ),
    ),
    Fault(
        "a heartbeat's lost attempts run on",
        "_send_heartbeat",
        "post(partial(registration.on_lost, lost))",
        "pass",
        (
            f"{NODE}::test_an_attempt_that_the_cancel_missed_is_stopped_by_the_heartbeat",
            f"{NODE}::test_rule_13_a_lost_node_registers_again_and_drops_what_it_held",
        ),
    ),
    Fault(
        "a cancel of any attempt stops the job",
        "cancel",
        "if attempt is None or attempt.number != number or attempt.has_ended:",
        "if attempt is None or attempt.has_ended:",
        ("tests/unit/test_attempts.py",),
    ),
    Fault(
        "a handler outlives its registration",
        "_wait_for_all",
        "while self._tasks and (left_s := ends_at - loop.time()) > 0:",
        "while False and (left_s := ends_at - loop.time()) > 0:",
        ("tests/unit/test_attempts.py",),
    ),
    Fault(
        "an assignment of an older registration is started",
        "_take",
        "if assignment.epoch == self.grant.epoch:",
        "if True:",
        (f"{NODE}::test_rule_13_a_superseded_node_stops_with_a_clear_error",),
    ),
    Fault(
        "a handler that fails takes no attempt and is not logged",
        "handler_error",
        "return _with_cause(failed(job), job, cause)",
        "raise error",
        (NODE,),
    ),
    Fault(
        "verify does not see an end by a token that is not live",
        "_check_token",
        "if token not in [(attempt.node, attempt.epoch, attempt.attempt) for attempt in live]:",
        "if False:",
        (VERIFY,),
    ),
    Fault(
        "verify does not compare leases with live attempts",
        "_lease_differences",
        'yield from _differences("I5", f"leases:{name}", live_leases(view), stored_leases)',
        "yield from ()",
        (VERIFY,),
    ),
    Fault(
        "verify does not find a lost dispatch entry",
        "_check_undispatched",
        "if utterances:",
        "if False:",
        (VERIFY,),
    ),
)


def all_mutants(root: Path = ROOT) -> list[Mutant]:
    """Every fault; Stale names one whose source has changed."""
    return [fault.mutant(root) for fault in FAULTS]


def tests_of(mutant: Mutant) -> tuple[str, ...]:
    """What should notice this fault."""
    (fault,) = (one for one in FAULTS if one.why == mutant.code)
    return fault.tests
