"""The text of a decision, as `eventsched why` and reports print it.

Owns: the words for the choice and its evidence.
Must not: compute decisions. Read next: explain.py, meanings.py (what the words mean).
"""

from __future__ import annotations

from eventsched.audit.explain import Decision
from eventsched.formatting import plural


def choice_text(decision: Decision) -> str:
    """Return the chosen node and the rule, or the reason of the wait."""
    if decision.rule:
        return f"{decision.node} by {decision.rule} (log/{decision.id})"
    ahead = plural(decision.ahead, "job")
    return f"waits, {decision.reason}, {ahead} before it (log/{decision.id})"


def evidence_lines(decision: Decision) -> list[str]:
    """Return the lines with the evidence of the decision, without its classes."""
    lines = [decision.detail] if decision.detail else []
    if decision.affinity is not None:
        why = decision.affinity.why
        use = f"not chosen: {why}" if why else "chosen"
        if why and decision.affinity.node == decision.node:
            use = f"not preferred: {why}; no other node was able"
        lines.append(f"affinity to {decision.affinity.node}: {use}")
    if decision.last:
        lines.append(f"the previous attempt was on {decision.last}")
    if decision.winner is not None:
        order = f"of {decision.compared} waiting requirements: "
        order += f"priority {decision.winner.priority}, tag {decision.winner.tag:,}"
        if decision.runner_up is not None:
            second = decision.runner_up
            order += f", before priority {second.priority}, tag {second.tag:,}"
            order += f" ({second.member.partition(':')[2]})"
        lines.append(order)
    if decision.context_at:
        lines.append(f"with the group's context as of log/{decision.context_at}")
    return lines
