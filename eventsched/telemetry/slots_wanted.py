"""How many slots each capability class needs for the present work.

Owns: the definition of the metric `slots_wanted`. Never does: read, decide for the scheduler.
Read next: cell_metrics.py, docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eventsched.history.node_status import ClassStatus
from eventsched.history.waiting import WaitingJobs

WHOLE_NODE = "*"
"""The subject of a suspension for every job."""


def slots_wanted(classes: Sequence[ClassStatus], waiting: Sequence[WaitingJobs]) -> dict[str, int]:
    """Return the slots that each class needs: those in use, and one for each job that waits.

    The waiting jobs of a requirement are divided among the classes that can serve it, in proportion
    to their slots. Jobs that no class can serve count nowhere: more nodes of these classes would
    not help them.

    Args:
        classes: the capability classes of a cell, also those without a node.
        waiting: the waiting jobs of the same cell, by requirement.
    """
    work = {each.id: float(sum(node.leases for node in each.nodes)) for each in classes}
    for jobs in waiting:
        able = [each for each in classes if _serves(each, jobs)]
        sizes = [sum(node.slots for node in each.nodes) for each in able]
        total = sum(sizes)
        for each, size in zip(able, sizes, strict=True):
            work[each.id] += jobs.jobs * (size / total if total else 1 / len(able))
    return {class_id: math.ceil(amount) for class_id, amount in work.items()}


def _serves(each: ClassStatus, jobs: WaitingJobs) -> bool:
    suspended = {WHOLE_NODE, f"{jobs.source}>{jobs.target}", *jobs.features} & set(each.suspended)
    return (
        not suspended
        and jobs.source in each.sources
        and jobs.target in each.targets
        and set(jobs.features) <= set(each.features)
    )
