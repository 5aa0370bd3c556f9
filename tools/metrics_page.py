"""The text of docs/metrics.md, generated from the catalog of metrics.

Owns: the page. Never does: write files. Read next: pages.py, eventsched/telemetry/catalog.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from eventsched.telemetry.catalog import CELL_METRICS, PREFIX, PROCESS_METRICS, Metric

HEAD = f"""\
# Metrics

Written by `python -m tools.pages`; do not edit by hand. The source is
`eventsched/telemetry/catalog.py`.

Install the extra: `pip install 'eventsched[telemetry]'`. All names begin with `{PREFIX}`. There are
two places to scrape:

- **A gateway** serves `/metrics` with the metrics of all cells. A scraper on the same machine needs
  no token; any other sends a token for all tenants, `eventsched token issue --role viewer`. Several
  gateways serve the same numbers: scrape one of them, or aggregate with `max`.
- **A process** that is started with `--metrics-listen HOST:PORT` (`up`, `run` and `node`; or the
  variable `EVENTSCHED_METRICS_LISTEN`) serves `http://HOST:PORT/metrics` with the metrics of this
  process. There is no token: use loopback or a private network. At a loopback address, requests of
  proxies and with a `Host` of another name are refused.

No label has the id of a session or a job. A cell has counters for at most 64 capability classes;
the jobs of all others count at the class `other`.

The column *source* says where a number comes from, and what a restart does to it:

- `rebuilt`: folded from the log by the projection `metrics`. It is the same after a restart, and
  `eventsched rebuild metrics` gives the same number again. No event counts twice.
- `read`: read from the server at the scrape, at most once a second.
- `process`: measured in one process; it begins at 0 when the process starts.

## Metrics of a cell

"""
SLOTS = """
`slots_wanted` is what an autoscaler reads: the slots in use, and the waiting jobs that the class
can serve. The length of a stream or a number of pending entries cannot say this: they do not know
how many slots serve the work.

Let the scaler take its average over two minutes, and keep a node for five minutes after it was last
wanted (`deploy/kubernetes/scaler.yaml`). A node needs 30 s to start, and a burst of speech is over
before. `python -m benchmarks.micro.autoscaling --traces DIR` serves a day of recorded meetings in
virtual time, 585,554 jobs on nodes of 8 slots: the fleet costs 1.46 times the slot hours that are
busy, and 99 % of the jobs wait for at most 0.94 s. An average over one minute costs 1.53 times and
waits for 0.71 s, and without an average the cost is 1.72 times.

## Dashboards

`deploy/grafana` has three dashboards for Grafana 11: operations, speech and audit. They are made by
`tools/dashboards.py`. Grafana is not part of the tests: each query runs on Prometheus, over a demo
in the tests and over a run with faults by `python -m tests.deploy.plots`, which draws every panel.
While the server does not answer, a gateway has no numbers, and the lines have a gap.

## Metrics of a process

"""


def metrics_page() -> str:
    """Return the text of docs/metrics.md."""
    return HEAD + _table(CELL_METRICS) + SLOTS + _table(PROCESS_METRICS)


def _table(metrics: tuple[Metric, ...]) -> str:
    return "\n".join(_rows(metrics)) + "\n"


def _rows(metrics: tuple[Metric, ...]) -> Iterator[str]:
    yield "| name | type | labels | source | meaning | look when |"
    yield "|---|---|---|---|---|---|"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        cells = [f"`{metric.name}`", metric.kind, labels, metric.source, metric.meaning]
        yield f"| {' | '.join([*cells, metric.alarm])} |"
