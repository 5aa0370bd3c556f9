"""`eventsched why JOB`: explain a job's dispatch. `why --replay`: compute all decisions again.

Owns: the printed explanation. Never does: computing it. Read next: audit/explain.py,
audit/replay.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from eventsched.cli.options import Archive, Options, command
from eventsched.errors import InvalidMessage
from eventsched.schema.ids import ms_of

if TYPE_CHECKING:
    from eventsched.audit.explain import Decision, JobExplanation
    from eventsched.audit.replay import ReplayReport
    from eventsched.history.source import HistorySource

Job = Annotated[
    str,
    typer.Argument(
        metavar="[JOB]", help="Key of the job, or SESSION:UTTERANCE:TARGET (c0.s1:0:es)."
    ),
]
Replaying = Annotated[
    bool, typer.Option("--replay", help="Compute every decision again and compare the results.")
]
Since = Annotated[
    str,
    typer.Option("--since", metavar="WHEN", help="Start of --replay: entry id or ISO time."),
]
Until = Annotated[
    str, typer.Option("--until", metavar="WHEN", help="End of --replay: entry id or ISO time.")
]
SHOWN_MAX = 20
"""Differences in the text output; --json prints up to 1,000."""
NODES_MAX = 40
"""Nodes of one decision in the text output."""


@command
async def why(
    options: Options,
    job: Job = "",
    replay: Replaying = False,
    since: Since = "",
    until: Until = "",
    archive: Archive = None,
) -> int:
    """Explain a job: the rule that chose each node, the state of all nodes, the time of each stage.

    The id of a session may be shortened to a beginning that no other session has.

    With --replay and without a job, the command computes every dispatch and every wait again, from
    the evidence in its event and from all events before it. The exit code is 1 if one differs.
    """
    if bool(job) == replay:
        raise InvalidMessage.of("JOB", "either a job or --replay expected", "see `why --help`")
    async with options.history_source(archive) as source:
        if replay:
            return await _replay(options, source, since, until)
        if since or until:
            raise InvalidMessage.of("--since", "with --replay only", "leave it out")
        await _explain(options, source, job)
    return 0


async def _explain(options: Options, source: HistorySource, job: str) -> None:
    from eventsched.audit.service import why as explain
    from eventsched.cli.output import print_json
    from eventsched.history.short_ids import expand

    explanation = await explain(source, await expand(source, job))
    if options.json:
        print_json(msgspec.to_builtins(explanation))
    else:
        _show(explanation)


async def _replay(options: Options, source: HistorySource, since: str, until: str) -> int:
    from eventsched.audit.service import entry_count, replay
    from eventsched.cli.output import print_json, progress
    from eventsched.history.position import parse_position

    first = parse_position(since, "--since") if since else None
    last = parse_position(until, "--until") if until else None
    agrees = True
    for cell in source.cells:
        with progress(f"replaying {cell}", await entry_count(source, cell)) as set_progress:
            result = await replay(source, cell, first, last, set_progress)
        agrees = agrees and result.agrees
        if options.json:
            print_json({"cell": cell, "agrees": result.agrees} | msgspec.to_builtins(result))
        else:
            _show_replay(cell, result)
    return 0 if agrees else 1


# --- output ---------------------------------------------------------------------------------


def _show(explanation: JobExplanation) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import clock, duration, plural
    from eventsched.tables import Text, table

    out = console()
    out.print(Text(explanation.job, "bold"), soft_wrap=True)
    outcome = explanation.outcome or "not ended"
    attempts = plural(explanation.attempts, "attempt")
    out.print(
        f"u{explanation.utterance} → {explanation.target} of {explanation.session}: "
        + " ".join(part for part in (outcome, explanation.code, "after", attempts) if part)
    )
    out.print()
    numbers = ("START", "DURATION")
    result = table(*numbers, "STAGE", "WAITED FOR, OR ENDED BY", right=numbers)
    result.columns[2].no_wrap = True
    for stage in explanation.stages:
        time = duration(stage.ms) + (" so far" if stage.is_open else "")
        result.add_row(clock(stage.from_ms), time, stage.name, Text(stage.waited_for))
    out.print(result)
    if not explanation.is_complete:
        out.print(Text("the history lacks the event that finalized the utterance", "red"))
    for decision in explanation.decisions:
        _show_decision(decision)


def _show_decision(decision: Decision) -> None:
    from eventsched.audit.explanation_text import choice_text, evidence_lines
    from eventsched.cli.output import console
    from eventsched.formatting import NONE, clock, plural
    from eventsched.tables import Text, table

    out = console()
    out.print()
    time = clock(ms_of(decision.id))
    out.print(Text(f"{time}  attempt {decision.attempt}: {choice_text(decision)}", "bold"))
    for line in evidence_lines(decision):
        out.print(Text(f"  {line}"))
    if decision.classes:
        numbers = ("LOAD", "FREE", "FULL", "DRAINING")
        result = table("  CLASS", "HEAD", *numbers, right=numbers)
        for each in decision.classes:
            load = f"{each.load / 10:.0f} %" if each.head else NONE
            counts = (str(each.free), str(each.full), str(each.draining))
            result.add_row(f"  {each.id}", each.head or NONE, load, *counts)
        if (others := decision.other_classes) is not None:
            counts = (str(others.free), str(others.full), str(others.draining))
            name = f"  {plural(others.classes, 'other class', 'other classes')}"
            result.add_row(name, NONE, NONE, *counts)
        out.print(result)
    if not decision.nodes and decision.backs_off:
        return
    if not decision.nodes:
        out.print(Text("  nodes: unknown, the first log entries are missing", "yellow"))
        return
    result = table("  NODE", "SLOTS", "LOAD", "", right=("SLOTS", "LOAD"))
    for node in decision.nodes[:NODES_MAX]:
        style = {"chosen": "green", "free": ""}.get(node.verdict, "yellow")
        verdict = node.verdict + (f": {node.detail}" if node.detail else "")
        slots = f"{node.live}/{node.slots}"
        result.add_row(f"  {node.node}", slots, f"{node.load / 10:.0f} %", Text(verdict, style))
    out.print(result)
    if (more := len(decision.nodes) - NODES_MAX) > 0:
        out.print(Text(f"  and {plural(more, 'more node')}, see --json", "dim"))


def _show_replay(cell: str, result: ReplayReport) -> None:
    from eventsched.cli.output import console, pairs
    from eventsched.formatting import plural
    from eventsched.tables import Text

    verdict = "agrees" if result.agrees else plural(result.differences_total, "difference")
    rules = ", ".join(f"{count:,} by {rule}" for rule, count in result.by_rule.most_common())
    rows = [
        ("events", f"{result.events:,}"),
        ("range", f"{result.first} to {result.last}" if result.first else "empty"),
        ("dispatches compared", f"{result.dispatches:,}" + (f": {rules}" if rules else "")),
        ("waits compared", f"{result.queued:,}"),
    ]
    console().print(pairs(f"cell {cell}: {verdict}", rows))
    for difference in result.differences[:SHOWN_MAX]:
        console().print(Text(f"  {difference}", "red"), soft_wrap=True)
    if result.differences_total > SHOWN_MAX:
        console().print(f"  and {result.differences_total - SHOWN_MAX:,} more, see --json")
