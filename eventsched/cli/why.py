"""`eventsched why JOB`: why it went where it went. `why --replay`: every decision again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from eventsched.cli.options import Archive, Options, command
from eventsched.errors import InvalidMessage

if TYPE_CHECKING:
    from eventsched.audit.explain import Decision, JobExplanation
    from eventsched.audit.replay import ReplayReport
    from eventsched.history.source import HistorySource

Job = Annotated[
    str,
    typer.Argument(metavar="[JOB]", help="Its key, or SESSION:UTTERANCE:TARGET (c0.s1:0:es)."),
]
Replaying = Annotated[
    bool, typer.Option("--replay", help="Compute every decision again and compare.")
]
Since = Annotated[
    str, typer.Option("--since", metavar="WHEN", help="With --replay: from this entry or time on.")
]
Until = Annotated[
    str, typer.Option("--until", metavar="WHEN", help="With --replay: up to this entry or time.")
]
SHOWN_MAX = 20
"""Differences that people are shown; --json has up to 1,000."""
NODES_MAX = 40
"""Nodes of one decision that people are shown."""


@command
async def why(
    options: Options,
    job: Job = "",
    replay: Replaying = False,
    since: Since = "",
    until: Until = "",
    archive: Archive = None,
) -> int:
    """Explain a job: which rule chose each node, what it saw of all nodes, what took how long.

    With --replay instead: every choice of a node and every wait in the range is computed again,
    from the evidence in its event and from the fold of all events before it. Exit code 1 when
    one differs.
    """
    if bool(job) == replay:
        raise InvalidMessage.of("JOB", "a job or --replay, one of them", "see `why --help`")
    async with options.past(archive) as past:
        if replay:
            return await _replay(options, past, since, until)
        if since or until:
            raise InvalidMessage.of("--since", "with --replay only", "leave it out")
        await _why(options, past, job)
    return 0


async def _why(options: Options, past: HistorySource, job: str) -> None:
    from eventsched.audit.service import why as explained
    from eventsched.cli.output import print_json

    found = await explained(past, job)
    if options.json:
        print_json(msgspec.to_builtins(found))
    else:
        _show(found)


async def _replay(options: Options, past: HistorySource, since: str, until: str) -> int:
    from eventsched.audit.service import entry_count, replay
    from eventsched.cli.output import print_json, progress
    from eventsched.history.position import parse_position

    first = parse_position(since, "--since") if since else None
    last = parse_position(until, "--until") if until else None
    agrees = True
    for cell in past.cells:
        with progress(f"replaying {cell}", await entry_count(past, cell)) as moved:
            found = await replay(past, cell, first, last, moved)
        agrees = agrees and found.agrees
        if options.json:
            print_json({"cell": cell, "agrees": found.agrees} | msgspec.to_builtins(found))
        else:
            _show_replayed(cell, found)
    return 0 if agrees else 1


# --- the look -------------------------------------------------------------------------------


def _show(found: JobExplanation) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import Text, clock, duration, table

    out = console()
    out.print(Text(found.job, "bold"), soft_wrap=True)
    attempts = f"{found.attempts} attempt{'s' * (found.attempts != 1)}"
    how = found.outcome or "under way"
    out.print(
        f"u{found.utterance} → {found.target} of {found.session}: "
        + " ".join(part for part in (how, found.code, "after", attempts) if part)
    )
    out.print()
    numbers = ("FROM", "TOOK")
    made = table(*numbers, "STAGE", "WHAT IT WAITED FOR, HOW IT ENDED", right=numbers)
    made.columns[2].no_wrap = True
    for one in found.stages:
        took = duration(one.ms) + (" so far" if one.is_open else "")
        made.add_row(clock(one.from_ms), took, one.name, Text(one.waited_for))
    out.print(made)
    for decision in found.decisions:
        _show_decision(decision)


def _show_decision(one: Decision) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import NONE, Text, clock, plural, table

    out = console()
    out.print()
    when = clock(int(one.id.partition("-")[0]))
    out.print(Text(f"{when}  attempt {one.attempt}: {_decided(one)}", "bold"))
    for line in _evidence(one):
        out.print(Text(f"  {line}"))
    if one.classes:
        numbers = ("LOAD", "FREE", "FULL", "DRAINING")
        made = table("  CLASS", "HEAD", *numbers, right=numbers)
        for seen in one.classes:
            load = f"{seen.load / 10:.0f} %" if seen.head else NONE
            counts = (str(seen.free), str(seen.full), str(seen.draining))
            made.add_row(f"  {seen.id}", seen.head or NONE, load, *counts)
        out.print(made)
    if not one.nodes:
        out.print(Text("  nodes: not known, the beginning of history is gone", "yellow"))
        return
    made = table("  NODE", "SLOTS", "LOAD", "", right=("SLOTS", "LOAD"))
    for node in one.nodes[:NODES_MAX]:
        style = {"chosen": "green", "free": ""}.get(node.verdict, "yellow")
        told = node.verdict + (f": {node.detail}" if node.detail else "")
        slots = f"{node.live}/{node.slots}"
        made.add_row(f"  {node.node}", slots, f"{node.load / 10:.0f} %", Text(told, style))
    out.print(made)
    if (more := len(one.nodes) - NODES_MAX) > 0:
        out.print(Text(f"  and {plural(more, 'node')} more, see --json", "dim"))


def _decided(one: Decision) -> str:
    from eventsched.formatting import plural

    if one.rule:
        return f"{one.node} by {one.rule} (log/{one.id})"
    return f"waits, {one.reason}, {plural(one.ahead, 'job')} before it (log/{one.id})"


def _evidence(one: Decision) -> list[str]:
    """What the rule rested on, beside the classes."""
    lines = [one.detail] if one.detail else []
    if one.affinity is not None:
        passed = f"passed over: {one.affinity.why}" if one.affinity.why else "taken"
        lines.append(f"affinity to {one.affinity.node}: {passed}")
    if one.last:
        lines.append(f"the attempt before was on {one.last}")
    if one.winner is not None:
        told = f"of {one.compared} waiting requirements: priority {one.winner.priority}, "
        told += f"tag {one.winner.tag:,}"
        if one.runner_up is not None:
            second = one.runner_up
            told += f", before priority {second.priority}, tag {second.tag:,}"
            told += f" ({second.member.partition(':')[2]})"
        lines.append(told)
    if one.context_at:
        lines.append(f"with the group's context as of log/{one.context_at}")
    return lines


def _show_replayed(cell: str, found: ReplayReport) -> None:
    from eventsched.cli.output import console, pairs
    from eventsched.formatting import Text, plural

    verdict = "agrees" if found.agrees else plural(found.differences_total, "difference")
    rules = ", ".join(f"{count:,} by {rule}" for rule, count in found.by_rule.most_common())
    rows = [
        ("events", f"{found.events:,}"),
        ("range", f"{found.first} to {found.last}" if found.first else "empty"),
        ("dispatches again", f"{found.dispatches:,}" + (f": {rules}" if rules else "")),
        ("waits again", f"{found.queued:,}"),
    ]
    console().print(pairs(f"cell {cell}: {verdict}", rows))
    for one in found.differences[:SHOWN_MAX]:
        console().print(Text(f"  {one}", "red"), soft_wrap=True)
    if found.differences_total > SHOWN_MAX:
        console().print(f"  and {found.differences_total - SHOWN_MAX:,} more, see --json")
