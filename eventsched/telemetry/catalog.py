"""The metrics of the product: name, type, labels, meaning, source.

Owns: one row for each metric. A metric is exposed only through its row, and docs/metrics.md is
made of these rows. Never does: count, read. Read next: cell_metrics.py, process_metrics.py.

Names follow the conventions of Prometheus: base units (seconds, bytes), `_total` for counters. No
label has the id of a session or a job: their number has no bound.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

PREFIX = "eventsched_"

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Source: TypeAlias = Literal["rebuilt", "read", "process"]
"""rebuilt: folded from the log, and the same after a restart and a rebuild. read: read from the
server at each scrape. process: measured in one process, and 0 when it starts."""


class Metric(NamedTuple):
    """One metric, without the prefix of its name."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    source: Source
    meaning: str
    alarm: str = ""
    """When a person must look, in words; empty for a metric that has no alarm."""


CELL_METRICS = (
    Metric("sessions_opened_total", "counter", ("cell",), "rebuilt", "Sessions opened."),
    Metric(
        "sessions_closed_total",
        "counter",
        ("cell", "reason"),
        "rebuilt",
        "Sessions that accept no more audio, by reason: `asked` by the producer, or `idle`.",
    ),
    Metric("sessions_open", "gauge", ("cell",), "rebuilt", "Sessions that accept audio."),
    Metric(
        "utterances_finalized_total",
        "counter",
        ("cell", "reason"),
        "rebuilt",
        "Utterances finalized, by the reason of their end.",
    ),
    Metric(
        "chunks_appended_total",
        "counter",
        ("cell",),
        "rebuilt",
        "Audio chunks of finalized utterances.",
    ),
    Metric(
        "bytes_appended_total",
        "counter",
        ("cell",),
        "rebuilt",
        "Bytes of audio of finalized utterances.",
    ),
    Metric(
        "audio_seconds_total",
        "counter",
        ("cell",),
        "rebuilt",
        "Seconds of audio of finalized utterances.",
    ),
    Metric(
        "jobs_queued_total",
        "counter",
        ("cell", "reason"),
        "rebuilt",
        "Waits of jobs that found no free slot, by the reason of the wait.",
    ),
    Metric(
        "jobs_dispatched_total",
        "counter",
        ("cell", "class", "rule", "attempt"),
        "rebuilt",
        "Attempts dispatched, by capability class of the node, rule of the choice and attempt"
        " (3 is the third or a later one).",
    ),
    Metric(
        "attempts_ended_total",
        "counter",
        ("cell", "reason"),
        "rebuilt",
        "Attempts that ended without a result, by reason.",
        "the rate of `failed` or `lease` rises above its usual share of dispatches",
    ),
    Metric(
        "results_recorded_total",
        "counter",
        ("cell", "outcome"),
        "rebuilt",
        "Results of nodes: `result` or `no_speech`.",
    ),
    Metric(
        "results_refused_total",
        "counter",
        ("cell", "code"),
        "rebuilt",
        "Reports of nodes that were refused because their lease had ended, by code.",
        "the rate stays above 0: handlers take longer than their lease",
    ),
    Metric(
        "deliveries_total",
        "counter",
        ("cell", "outcome"),
        "rebuilt",
        "Outcomes delivered to listeners: `result`, `no_speech`, `failed` or `missing`.",
        "more than 1 % of them are `failed` or `missing`",
    ),
    Metric(
        "finalize_to_dispatch_seconds",
        "histogram",
        ("cell",),
        "rebuilt",
        "Time from the end of an utterance to the first dispatch of a job, by the cell's clock.",
    ),
    Metric(
        "queue_wait_seconds",
        "histogram",
        ("cell",),
        "rebuilt",
        "Time in the queue of jobs that found no free slot and then got one.",
        "the 95th percentile nears the setting `queue_timeout_ms`",
    ),
    Metric(
        "finalize_to_delivery_seconds",
        "histogram",
        ("cell", "outcome"),
        "rebuilt",
        "Time from the end of an utterance to the delivery of an outcome: `result`, `no_speech` or"
        " `failed`.",
        "the 95th percentile of `result` stays above what listeners accept: 5 s in the rules",
    ),
    Metric(
        "jobs_waiting",
        "gauge",
        ("cell", "requirement", "reason"),
        "read",
        "Jobs that wait for a slot, by requirement `<source>:<target>:<features>` and reason; the"
        " 100 requirements with the most jobs have series of their own, `other` has the rest.",
        "a requirement has the reason NO_POOL_FOR_LANG_PAIR: no node serves it",
    ),
    Metric(
        "jobs_waiting_oldest_seconds",
        "gauge",
        ("cell", "requirement", "reason"),
        "read",
        "Age of the oldest of these jobs.",
        "above half of the setting `queue_timeout_ms`",
    ),
    Metric(
        "nodes",
        "gauge",
        ("cell", "class", "status"),
        "read",
        "Registered nodes by capability class and status: `alive`, `draining` or `suspended`.",
        "a class has no node that is `alive`",
    ),
    Metric(
        "node_slots", "gauge", ("cell", "class", "status"), "read", "Slots of the registered nodes."
    ),
    Metric(
        "node_slots_used",
        "gauge",
        ("cell", "class", "status"),
        "read",
        "Slots in use: attempts that have a lease.",
    ),
    Metric(
        "slots_wanted",
        "gauge",
        ("cell", "class"),
        "read",
        "Slots that the present work needs, for an autoscaler: slots in use, and jobs that wait and"
        " that the class can serve. A job that several classes can serve counts at these in"
        " proportion to their slots.",
    ),
    Metric(
        "group_lag_entries",
        "gauge",
        ("cell", "group"),
        "read",
        "Entries that a consumer group of the system has not processed.",
        "it rises for minutes",
    ),
    Metric(
        "group_lag_seconds",
        "gauge",
        ("cell", "group"),
        "read",
        "Age of the oldest of these entries.",
        "above 10 s; for `archive` above 10 min",
    ),
    Metric(
        "role_up",
        "gauge",
        ("cell", "role"),
        "read",
        "Processes that run the role, the failing ones excluded.",
        "0",
    ),
    Metric(
        "lease_owner",
        "gauge",
        ("cell", "group"),
        "read",
        "1 while a process has the lease of the projection set or of the archive.",
        "0 for a minute",
    ),
    Metric("dead_letters", "gauge", ("cell",), "read", "Entries in the dead letters.", "above 0"),
    Metric(
        "backpressure",
        "gauge",
        ("cell", "reason"),
        "read",
        "1 while producers are refused for the reason.",
        "1 for a minute",
    ),
    Metric(
        "tenants_refused",
        "gauge",
        ("cell", "reason"),
        "read",
        "Tenants that are refused for their own backlog: `queue`, `outbox` or `lag`. At most five"
        " each.",
        "above 0 for a minute",
    ),
    Metric("log_entries", "gauge", ("cell",), "read", "Entries of the log."),
    Metric(
        "stalled_timers",
        "gauge",
        ("cell",),
        "read",
        "Timers whose last call had no effect.",
        "above 0 for five minutes",
    ),
)
"""Metrics of a cell, which a gateway exposes."""

PROCESS_METRICS = (
    Metric(
        "script_duration_seconds",
        "histogram",
        ("script",),
        "process",
        "Time of a call of a script, with the network, retries and waiting for a connection.",
        "the 99th percentile stays above 0.1 s",
    ),
    Metric(
        "handler_duration_seconds",
        "histogram",
        ("outcome",),
        "process",
        "Time of a handler of a node, by outcome: `ok`, `no_speech`, `failed` or `cancelled`.",
        "the 95th percentile nears the lease",
    ),
    Metric(
        "finalize_to_start_seconds",
        "histogram",
        (),
        "process",
        "Time from the end of an utterance to the start of a handler of a node, without the way"
        " of the assignment to the node; first attempts only.",
        "it is far above `finalize_to_dispatch_seconds`: the event loop of the node is blocked, or"
        " reading audio takes long",
    ),
    Metric("build_info", "gauge", ("version",), "process", "1, with the version of eventsched."),
)
"""Metrics of a process that is started with `--metrics-listen`, and of a gateway. The metrics
`process_*` and `python_*` of prometheus-client come with them."""
