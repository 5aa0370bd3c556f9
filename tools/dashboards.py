"""The dashboards of deploy/grafana, generated from the queries below.

Owns: the queries and titles of all panels. Never does: write files. Read next: pages.py,
eventsched/telemetry/catalog.py (the metrics).

A gateway serves the metrics of all cells, and several gateways serve the same ones: each query of a
cell's metric takes the maximum over the scraped gateways before it sums.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 12, 8
"""Of a panel, in units of the grid, which has 24 columns."""
SCHEMA_VERSION = 39
"""Version of the form of a dashboard, of Grafana 11."""
CELLS = '{cell=~"$cell"}'


class Query(NamedTuple):
    """One series of a panel."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """One graph."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""


def _rate(metric: str, labels: str, keep: str) -> str:
    """A rate per second of a cell's counter, by some of its labels."""
    each = f"max by ({labels}) (rate(eventsched_{metric}{CELLS}[$__rate_interval]))"
    return f"sum by ({keep}) ({each})"


def _latest(metric: str, labels: str, keep: str) -> str:
    """A gauge of a cell, by some of its labels."""
    return f"sum by ({keep}) (max by ({labels}) (eventsched_{metric}{CELLS}))"


def _quantile(metric: str, quantile: float, keep: str) -> str:
    rate = f"rate(eventsched_{metric}_bucket[$__rate_interval])"
    return _without_nan(f"histogram_quantile({quantile}, sum by (le, {keep}) ({rate}))")


def _without_nan(quantile: str) -> str:
    """A process without a time in the window has no line: a role has no handlers."""
    return f"{quantile} >= 0"


def _of_cell(metric: str, quantile: float, labels: str = "") -> str:
    """A quantile of a cell's histogram; `labels` are those of the metric beside the cell."""
    each = "cell, le" + (f", {labels}" if labels else "")
    rate = f"max by ({each}) (rate(eventsched_{metric}_bucket{CELLS}[$__rate_interval]))"
    keep = f"le, {labels}" if labels else "le"
    return _without_nan(f"histogram_quantile({quantile}, sum by ({keep}) ({rate}))")


OPERATIONS = (
    Panel(
        "Roles that run",
        "short",
        (Query(_latest("role_up", "cell, role", "cell, role"), "{{cell}} {{role}}"),),
        "0 means that no process does the work of the role. A process that was killed counts for up"
        " to 15 s more.",
    ),
    Panel(
        "Lag of the consumer groups",
        "s",
        (Query(_latest("group_lag_seconds", "cell, group", "cell, group"), "{{cell}} {{group}}"),),
    ),
    Panel(
        "Jobs",
        "ops",
        (
            Query(
                _rate("jobs_dispatched_total", "cell, class, rule, attempt", "class"),
                "dispatched {{class}}",
            ),
            Query(_rate("attempts_ended_total", "cell, reason", "reason"), "ended: {{reason}}"),
        ),
    ),
    Panel(
        "Waiting jobs",
        "short",
        (
            Query(
                _latest("jobs_waiting", "cell, requirement, reason", "requirement, reason"),
                "{{requirement}} {{reason}}",
            ),
        ),
        "No line: no job waits.",
    ),
    Panel(
        "Longest wait",
        "s",
        (
            Query(
                "max by (requirement) (eventsched_jobs_waiting_oldest_seconds" + CELLS + ")",
                "{{requirement}}",
            ),
        ),
    ),
    Panel(
        "Slots",
        "short",
        (
            Query(
                _latest("node_slots", "cell, class, status", "class, status"),
                "{{class}} {{status}}",
            ),
            Query(_latest("node_slots_used", "cell, class, status", "class"), "{{class}} in use"),
            Query(_latest("slots_wanted", "cell, class", "class"), "{{class}} wanted"),
        ),
        "Wanted is a slot for each job that runs or waits.",
    ),
    Panel(
        "Nodes",
        "short",
        (Query(_latest("nodes", "cell, class, status", "class, status"), "{{class}} {{status}}"),),
    ),
    Panel(
        "Backpressure and refused tenants",
        "short",
        (
            Query(_latest("backpressure", "cell, reason", "cell, reason"), "{{cell}} {{reason}}"),
            Query(
                _latest("tenants_refused", "cell, reason", "cell, reason"),
                "{{cell}} tenants: {{reason}}",
            ),
        ),
    ),
    Panel(
        "Calls of scripts, 99th percentile",
        "s",
        (Query(_quantile("script_duration_seconds", 0.99, "script"), "{{script}}"),),
    ),
    Panel(
        "Dead letters and stalled timers",
        "short",
        (
            Query(_latest("dead_letters", "cell", "cell"), "{{cell}} dead letters"),
            Query(_latest("stalled_timers", "cell", "cell"), "{{cell}} stalled timers"),
        ),
        "0 unless something could not be processed.",
    ),
    Panel(
        "Entries of the log",
        "short",
        (Query(_latest("log_entries", "cell", "cell"), "{{cell}}"),),
        "It falls when entries that are archived, folded and old enough are trimmed.",
    ),
)
SPEECH = (
    Panel("Open sessions", "short", (Query(_latest("sessions_open", "cell", "cell"), "{{cell}}"),)),
    Panel(
        "Audio received for each second",
        "s",
        (Query(_rate("audio_seconds_total", "cell", "cell"), "{{cell}}"),),
        "1 is one voice in real time.",
    ),
    Panel(
        "Utterances by the reason of their end",
        "ops",
        (Query(_rate("utterances_finalized_total", "cell, reason", "reason"), "{{reason}}"),),
        "Many of `max_duration` or `max_bytes`: speech is cut amid a sentence.",
    ),
    Panel(
        "Outcomes delivered",
        "ops",
        (Query(_rate("deliveries_total", "cell, outcome", "outcome"), "{{outcome}}"),),
    ),
    Panel(
        "Share of outcomes that are failed or missing",
        "percentunit",
        (
            Query(
                "(sum(max by (cell, outcome) (rate(eventsched_deliveries_total"
                '{cell=~"$cell",outcome=~"failed|missing"}[$__rate_interval]))) or vector(0))'
                " / sum(max by "
                '(cell, outcome) (rate(eventsched_deliveries_total{cell=~"$cell"}'
                "[$__rate_interval])))",
                "failed or missing",
            ),
        ),
        "No line: nothing is delivered.",
    ),
    Panel(
        "Results of nodes",
        "ops",
        (
            Query(_rate("results_recorded_total", "cell, outcome", "outcome"), "{{outcome}}"),
            Query(_rate("results_refused_total", "cell, code", "code"), "refused: {{code}}"),
        ),
    ),
    Panel(
        "Time of handlers",
        "s",
        (
            Query(_quantile("handler_duration_seconds", 0.5, "outcome"), "{{outcome}} median"),
            Query(_quantile("handler_duration_seconds", 0.95, "outcome"), "{{outcome}} 95 %"),
        ),
    ),
    Panel(
        "Waits for a slot",
        "ops",
        (Query(_rate("jobs_queued_total", "cell, reason", "reason"), "{{reason}}"),),
    ),
    Panel(
        "From the end of an utterance to its delivery",
        "s",
        (
            Query(_of_cell("finalize_to_delivery_seconds", 0.5, "outcome"), "{{outcome}} median"),
            Query(_of_cell("finalize_to_delivery_seconds", 0.95, "outcome"), "{{outcome}} 95 %"),
        ),
    ),
    Panel(
        "From the end of an utterance to its node, 95th percentile",
        "s",
        (
            Query(_of_cell("finalize_to_dispatch_seconds", 0.95), "dispatched"),
            Query(_quantile("finalize_to_start_seconds", 0.95, "instance"), "{{instance}} starts"),
            Query(_of_cell("queue_wait_seconds", 0.95), "waits of jobs without a free slot"),
        ),
    ),
)
AUDIT = (
    Panel("Archive behind the log", "s", (
        Query('max by (cell) (eventsched_group_lag_seconds{cell=~"$cell",group="archive"})',
              "{{cell}}"),
    ), "The archiver seals every five minutes."),
    Panel("Entries that are not archived yet", "short", (
        Query('max by (cell) (eventsched_group_lag_entries{cell=~"$cell",group="archive"})',
              "{{cell}}"),
    )),
    Panel("Events of audio and outcomes", "ops", (
        Query(_rate("chunks_appended_total", "cell", "cell"), "{{cell}} chunks"),
        Query(_rate("deliveries_total", "cell, outcome", "cell"), "{{cell}} outcomes"),
    )),
    Panel("Owner of the archive", "short", (
        Query('max by (cell) (eventsched_lease_owner{cell=~"$cell",group="archive"})', "{{cell}}"),
    )),
    Panel("Dead letters", "short", (Query(_latest("dead_letters", "cell", "cell"), "{{cell}}"),)),
    Panel("Entries of the log", "short", (
        Query(_latest("log_entries", "cell", "cell"), "{{cell}}"),
    )),
)  # fmt: skip
DASHBOARDS = {"operations": OPERATIONS, "speech": SPEECH, "audit": AUDIT}


def dashboards() -> Iterator[tuple[str, str]]:
    """Yield the name of each dashboard and its JSON."""
    for name, panels in DASHBOARDS.items():
        yield name, json.dumps(_dashboard(name, panels), indent=1) + "\n"


def _dashboard(name: str, panels: Sequence[Panel]) -> dict[str, Any]:
    return {
        "uid": f"eventsched-{name}",
        "title": f"eventsched: {name}",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["eventsched"],
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "15s",
        "templating": {"list": [_data_source(), _cells()]},
        "panels": [_panel(at, panel) for at, panel in enumerate(panels)],
    }


def _data_source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _cells() -> dict[str, Any]:
    return {
        "name": "cell",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": "label_values(eventsched_log_entries, cell)",
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


_LINES = {"spanNulls": False, "showPoints": "auto"}
"""A value that is there for one scrape is a point; a line does not cross the time without one."""


def _panel(at: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": at + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": at % 2 * WIDTH, "y": at // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": _LINES},
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for number, query in enumerate(panel.queries)
        ],
    }
