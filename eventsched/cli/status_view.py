"""The look of `status`: for each cell its groups, its nodes, and what waits.

Owns: tables of an Overview. Read next: history/status.py (what is gathered), output.py.
"""

from __future__ import annotations

from rich.console import Group, RenderableType

from eventsched.formatting import NONE, Text, clock, duration, plural, size, table
from eventsched.history.status import CellOverview, ClassSeen, NodeSeen, Overview, SetBehind
from eventsched.store.lag import ARCHIVE

LATE_MS = {ARCHIVE: 600_000}
"""An archive seals every five minutes."""
NODES_MAX = 12
"""Nodes of one class that are shown; the others are counted."""


def panel(found: Overview) -> RenderableType:
    """Everything, cell after cell."""
    head = Text(found.server, "bold")
    head.append(" cluster" * found.is_cluster, "")
    if found.maxmemory_bytes:
        head.append(f", {size(found.maxmemory_bytes)} at most", "dim")
    parts: list[RenderableType] = [head]
    parts += [Text(f"warning: {warning}", "yellow") for warning in found.warnings]
    for cell in found.cells:
        parts += ["", *_cell(cell)]
    return Group(*parts)


def _cell(cell: CellOverview) -> list[RenderableType]:
    head = Text.assemble((f"cell {cell.cell}", "bold"), f"  {clock(cell.now_ms)}  log ")
    head.append(plural(cell.log_entries, "entry", "entries"))
    if cell.log_retention_ms:
        head.append(f", unarchived ones kept for {duration(cell.log_retention_ms)}", "dim")
    if cell.pressure:
        head.append(f"  under pressure: {', '.join(cell.pressure)}", "bold red")
    if cell.dead:
        head.append(f"  {cell.dead:,} dead: {cell.dead_newest}", "red")
    return [head, _groups(cell.groups), "", _nodes(cell.classes), *_waiting(cell)]


def _groups(groups: list[SetBehind]) -> RenderableType:
    made = table("GROUP", "READS", "BEHIND", "OLDEST", "", right=("BEHIND", "OLDEST"))
    for one in groups:
        late = "yellow" if one.ms > LATE_MS.get(one.group, 2_000) else ""
        nobody = "nobody archives" if one.group == ARCHIVE else "nobody folds it"
        note = Text("") if one.is_held else Text(nobody, "red")
        oldest = duration(one.ms) if one.entries else NONE
        made.add_row(one.group, one.stream, Text(f"{one.entries:,}", late), oldest, note)
    return made


def _nodes(classes: list[ClassSeen]) -> RenderableType:
    if not any(one.nodes for one in classes):
        return Text("no nodes", "yellow")
    made = table("NODE", "SERVES", "SLOTS", "LOAD", "SEEN", "", right=("SLOTS", "LOAD", "SEEN"))
    made.columns[1].overflow = "ellipsis"
    for one in classes:
        if len(one.nodes) > 1:
            made.add_row(*_class_row(one))
        for node in one.nodes[:NODES_MAX]:
            serves = "" if len(one.nodes) > 1 else _serves(one)
            made.add_row(*_node_row(node, serves, one.suspended))
        if len(one.nodes) > NODES_MAX:
            made.add_row(Text(f"  and {len(one.nodes) - NODES_MAX:,} more", "dim"))
    return made


def _class_row(one: ClassSeen) -> list[RenderableType]:
    slots, live = sum(node.slots for node in one.nodes), sum(node.live for node in one.nodes)
    return [
        Text(plural(len(one.nodes), "node"), "dim"),
        _serves(one),
        f"{live}/{slots}",
        _load(live, slots),
        "",
        _suspended_text(one.suspended),
    ]


def _node_row(node: NodeSeen, serves: str, suspended: list[str]) -> list[RenderableType]:
    note = Text(node.status, "yellow") if node.status != "alive" else Text("")
    if serves:
        note.append_text(_suspended_text(suspended))
    slots = f"{node.live}/{node.slots}"
    return [
        node.node,
        serves,
        slots,
        _load(node.live, node.slots),
        duration(node.seen_ms),
        note,
    ]


def _load(live: int, slots: int) -> str:
    return f"{100 * live // slots} %" if slots else ""


def _suspended_text(suspended: list[str]) -> Text:
    return Text(f" suspended for {', '.join(suspended)}" if suspended else "", "yellow")


def _serves(one: ClassSeen) -> str:
    features = f"  +{', '.join(one.features)}" if one.features else ""
    return f"{', '.join(one.sources)} → {', '.join(one.targets)}{features}"


def _waiting(cell: CellOverview) -> list[RenderableType]:
    if not cell.waiting:
        return []
    made = table("WAITING", "SERVICES", "JOBS", "OLDEST", "WHY", right=("JOBS", "OLDEST"))
    for one in sorted(cell.waiting, key=lambda one: -one.oldest_ms):
        made.add_row(
            f"{one.source} → {one.target}",
            ", ".join(one.features),
            f"{one.jobs:,}",
            duration(one.oldest_ms),
            one.reason,
        )
    return ["", made]
