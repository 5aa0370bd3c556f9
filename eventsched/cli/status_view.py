"""The tables of `eventsched status`: roles, consumers, nodes and waiting jobs of each cell.

Owns: the text form of an SystemStatus. Never does: reads. Read next: history/status.py, output.py.
"""

from __future__ import annotations

from rich.console import Group, RenderableType

from eventsched.errors import REPAIR
from eventsched.formatting import NONE, clock, duration, plural, size
from eventsched.history.consumer_groups import ConsumerGroupStatus
from eventsched.history.node_status import ClassStatus, NodeStatus
from eventsched.history.roles import RoleStatus
from eventsched.history.status import CellStatus, ConsumerStatus, SystemStatus
from eventsched.projection.installed import VARIABLE
from eventsched.store.lag import ARCHIVE
from eventsched.tables import Text, table

LATE_MS = {ARCHIVE: 600_000}
"""Lag from which a consumer is late; the archiver seals every five minutes."""
LATE_MS_DEFAULT = 2_000
NODES_MAX = 12
"""Number of nodes of one class that are shown."""
CLASSES_MAX = 50
"""Number of capability classes that are shown."""
GROUPS_MAX = 50
"""Number of consumer groups of other programs that are shown."""
REQUIREMENTS_MAX = 50
"""Number of requirements with waiting jobs that are shown."""


def panel(status: SystemStatus) -> RenderableType:
    """Return the status of the server and of each cell."""
    head = Text(status.server, "bold")
    head.append(" cluster" * status.is_cluster, "")
    if status.maxmemory_bytes:
        head.append(f", maxmemory {size(status.maxmemory_bytes)}", "dim")
    parts: list[RenderableType] = [head]
    parts += [Text(f"warning: {warning}", "yellow") for warning in status.warnings]
    parts += [
        Text(f"projection {each.name} of {each.package}: not enabled ({VARIABLE})", "dim")
        for each in status.projections_not_enabled
    ]
    for cell in status.cells:
        parts += ["", *_cell(cell)]
    return Group(*parts)


def _cell(cell: CellStatus) -> list[RenderableType]:
    head = Text.assemble((f"cell {cell.cell}", "bold"), f"  {clock(cell.now_ms)}  log ")
    head.append(plural(cell.log_entries, "entry", "entries"))
    if cell.log_retention_ms:
        head.append(f", unarchived entries kept for {duration(cell.log_retention_ms)}", "dim")
    if cell.backpressure:
        head.append(f"  backpressure: {', '.join(cell.backpressure)}", "bold red")
    if cell.dead_letters:
        count = plural(cell.dead_letters, "dead letter")
        head.append(f"  {count}, newest: {cell.newest_dead_letter}", "red")
    if cell.stalled_timers:
        head.append(f"  {plural(cell.stalled_timers, 'stalled timer')}", "red")
    parts = [_roles(cell), "", _consumers(cell.consumers), ""]
    if cell.consumer_groups:
        parts += [consumer_groups(cell.consumer_groups), ""]
    return [head, *parts, _nodes(cell.classes, cell.now_ms), *_tenants(cell), *_waiting(cell)]


def _roles(cell: CellStatus) -> RenderableType:
    result = table("ROLE", "RUNS", "SINCE", "SEEN", "", right=("RUNS", "SINCE", "SEEN"))
    for role in cell.roles:
        since = duration(cell.now_ms - role.since_ms) if role.running else NONE
        seen = f"{duration(max(0, cell.now_ms - role.seen_ms))} ago" if role.seen_ms else NONE
        note = Text(role.problem, "red") if role.problem else Text(_standbys(role), "dim")
        result.add_row(role.name, str(role.running), since, seen, note)
    return result


def _standbys(role: RoleStatus) -> str:
    if not role.owner:
        return ""
    return f"owner {role.owner}" + (
        f", {plural(role.standbys, 'standby', 'standbys')}" if role.standbys else ""
    )


def _consumers(consumers: list[ConsumerStatus]) -> RenderableType:
    result = table("CONSUMER", "STREAM", "LAG", "OLDEST", "", right=("LAG", "OLDEST"))
    for each in consumers:
        is_late = each.oldest_ms > LATE_MS.get(each.consumer, LATE_MS_DEFAULT)
        lag = Text(f"{each.lag:,}", "yellow" if is_late else "")
        role = "archiver" if each.consumer == ARCHIVE else "projector"
        note = Text("") if each.is_running else Text(f"no {role} runs", "red")
        oldest = duration(each.oldest_ms) if each.lag else NONE
        result.add_row(each.consumer, each.stream, lag, oldest, note)
    return result


def consumer_groups(groups: list[ConsumerGroupStatus]) -> RenderableType:
    """Return the table of the consumer groups of other programs."""
    right = ("LAG", "PENDING", "IDLE", "HOLDS UP")
    result = table("CONSUMER GROUP", "POSITION", *right, right=right)
    for each in groups[:GROUPS_MAX]:
        result.add_row(
            Text(each.group),
            each.position,
            NONE if each.lag is None else f"{each.lag:,}",
            f"{each.pending:,}",
            duration(each.idle_ms),
            Text(duration(each.holds_up_ms), "yellow") if each.holds_up_ms else NONE,
        )
    if len(groups) > GROUPS_MAX:
        result.add_row(Text(f"and {len(groups) - GROUPS_MAX:,} more", "dim"))
    return result


def _nodes(classes: list[ClassStatus], now_ms: int) -> RenderableType:
    if not any(each.nodes for each in classes):
        return Text("no nodes", "yellow")
    right = ("SLOTS", "LOAD", "HEARTBEAT")
    result = table("NODE", "LANGUAGES", *right, "", right=right)
    result.columns[1].overflow = "ellipsis"
    for each in classes[:CLASSES_MAX]:
        if len(each.nodes) > 1:
            result.add_row(*_class_row(each))
        for node in each.nodes[:NODES_MAX]:
            abilities = "" if len(each.nodes) > 1 else _abilities(each)
            result.add_row(*_node_row(node, abilities, each.suspended, now_ms))
        if len(each.nodes) > NODES_MAX:
            result.add_row(Text(f"  and {len(each.nodes) - NODES_MAX:,} more", "dim"))
    if len(classes) > CLASSES_MAX:
        result.add_row(Text(f"and {len(classes) - CLASSES_MAX:,} more classes", "dim"))
    return result


def _class_row(status: ClassStatus) -> list[RenderableType]:
    slots = sum(node.slots for node in status.nodes)
    leases = sum(node.leases for node in status.nodes)
    return [
        Text(plural(len(status.nodes), "node"), "dim"),
        _abilities(status),
        f"{leases}/{slots}",
        _load(leases, slots),
        "",
        _suspended_text(status.suspended),
    ]


def _node_row(
    node: NodeStatus, abilities: str, suspended: list[str], now_ms: int
) -> list[RenderableType]:
    note = Text(_drain(node, now_ms), "yellow") if node.status != "alive" else Text("")
    if node.damaged:
        note = Text(f"damaged: {', '.join(node.damaged)}; {REPAIR} mends it", "red")
    if abilities:
        note.append_text(_suspended_text(suspended))
    return [
        node.node,
        abilities,
        f"{node.leases}/{node.slots}",
        _load(node.leases, node.slots),
        duration(node.heartbeat_age_ms),
        note,
    ]


def _drain(node: NodeStatus, now_ms: int) -> str:
    """Return what a draining node still holds and until when, or the status of another node."""
    if node.status != "draining":
        return node.status
    by = f" (by {node.drained_by})" if node.drained_by else ""
    left = (
        f", at most {duration(node.drain_ends_ms - now_ms)}" if node.drain_ends_ms > now_ms else ""
    )
    more = f" and {node.leases - len(node.held):,} more" if node.leases > len(node.held) else ""
    held = f", holds {', '.join(node.held)}{more}" if node.held else ""
    return f"draining{by}{left}{held}"


def _load(leases: int, slots: int) -> str:
    return f"{100 * leases // slots} %" if slots else ""


def _suspended_text(suspended: list[str]) -> Text:
    if "*" in suspended:
        return Text(" suspended", "yellow")
    return Text(f" suspended for {', '.join(suspended)}" if suspended else "", "yellow")


def _abilities(status: ClassStatus) -> str:
    """Return the languages and features of a capability class."""
    features = f"  +{', '.join(status.features)}" if status.features else ""
    return f"{', '.join(status.sources)} → {', '.join(status.targets)}{features}"


def _tenants(cell: CellStatus) -> list[RenderableType]:
    """Return the tenants with the largest backlogs; those that are refused are red."""
    queues = {each.tenant: each for each in cell.queues}
    outboxes = {each.tenant: each for each in cell.outboxes}
    lags = {each.tenant: each.lag for each in cell.lagging_tenants}
    if not queues and not lags and not any(each.is_refused for each in outboxes.values()):
        return []
    columns = ("JOBS WAIT", "UNREAD", "NOT FOLDED")
    result = table("TENANT", *columns, "", right=columns)
    for tenant in dict.fromkeys([*lags, *queues, *outboxes]):
        queue, outbox = queues.get(tenant), outboxes.get(tenant)
        is_refused = {
            "tenant_queue": queue is not None and queue.is_refused,
            "tenant_outbox": outbox is not None and outbox.is_refused,
            "tenant_lag": tenant in lags,
        }
        causes = [cause for cause, is_active in is_refused.items() if is_active]
        result.add_row(
            tenant,
            f"{queue.jobs:,}" if queue else NONE,
            size(outbox.unread_bytes) if outbox else NONE,
            f"{lags[tenant]:,}" if tenant in lags else NONE,
            Text(f"refused: {', '.join(causes)}" if causes else "", "bold red"),
        )
    return ["", result]


def _waiting(cell: CellStatus) -> list[RenderableType]:
    if not cell.waiting:
        return []
    result = table("WAITING", "FEATURES", "JOBS", "OLDEST", "REASON", right=("JOBS", "OLDEST"))
    for each in sorted(cell.waiting, key=lambda each: -each.oldest_ms)[:REQUIREMENTS_MAX]:
        result.add_row(
            f"{each.source} → {each.target}",
            ", ".join(each.features),
            f"{each.jobs:,}",
            duration(each.oldest_ms),
            each.reason,
        )
    if len(cell.waiting) > REQUIREMENTS_MAX:
        result.add_row(Text(f"and {len(cell.waiting) - REQUIREMENTS_MAX:,} more", "dim"))
    return ["", result]
