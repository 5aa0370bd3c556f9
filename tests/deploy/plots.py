"""Plots every panel of the dashboards over a chaos run, to be looked at.

    python -m tests.deploy.plots FOLDER --seed 51 --minutes 2
    python -m tests.deploy.plots FOLDER                         again, of an earlier run

Owns: a Prometheus that scrapes all processes of the run, the queries of the panels over its time, a
picture of each dashboard. FOLDER gets the pictures, and the report and the logs of the run.
Never does: judge a picture. Read next: ../chaos/run.py, files.py, test_prometheus.py.

It needs matplotlib (`pip install matplotlib`, or the group `bench`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import httpx

from eventsched.server.testing import wait_for
from tests.deploy.files import ROOT, dashboards
from tests.deploy.prometheus import prometheus

STEP_S = 1
RATE = "10s"
"""Grafana chooses four scrapes for `$__rate_interval`; a run is too short for its minimum."""
COLUMNS = 2
SERIES_MAX = 24
"""Series in the legend of a panel."""


def run_chaos(folder: Path, options: Sequence[str], targets: Path) -> tuple[float, float]:
    """Run the faults; return when they began and ended."""
    begins_s = time.time()
    with (folder / "report.json").open("wb") as report, (folder / "run.log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "tests.chaos.run", "--keep", str(folder / "run"),
             "--metrics", str(targets), "--no-epilogues", *options],
            cwd=ROOT, stdout=report, stderr=log, check=False,
        )  # fmt: skip
    return begins_s, time.time()


def until_ready(url: str) -> None:
    """Wait until Prometheus has loaded its data."""

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/-/ready", trust_env=False).is_success
        except httpx.TransportError:
            return False

    wait_for("Prometheus is ready", is_ready)


def read_panel(
    http: httpx.Client, url: str, expression: str, span: tuple[float, float]
) -> list[Any]:
    query = expression.replace("$__rate_interval", RATE).replace("$cell", ".*")
    reply = http.get(
        f"{url}/api/v1/query_range",
        params={"query": query, "start": span[0], "end": span[1], "step": STEP_S},
    )
    reply.raise_for_status()
    return list(reply.json()["data"]["result"])


def points_of(values: Sequence[tuple[float, str]], begins_s: float) -> list[tuple[float, float]]:
    """The points of a line, with a break where a sample is missing, as Grafana draws it."""
    points: list[tuple[float, float]] = []
    for at_s, value in values:
        if points and at_s - begins_s - points[-1][0] > 1.5 * STEP_S:
            points.append((at_s - begins_s, nan))
        points.append((at_s - begins_s, float(value)))
    return points


def legend_of(template: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def draw(http: httpx.Client, url: str, span: tuple[float, float], folder: Path) -> None:
    """Write one picture for each dashboard, and print the panels without a sample."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    for name, dashboard in dashboards():
        panels = dashboard["panels"]
        rows = -(-len(panels) // COLUMNS)
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(16, 3.4 * rows), squeeze=False)
        for panel, axis in zip(panels, axes.flat, strict=False):
            defaults = panel.get("fieldConfig", {}).get("defaults", {})
            axis.set_title(f"{panel['title']} [{defaults.get('unit', '')}]", fontsize=10)
            shown = 0
            for target in panel["targets"]:
                for series in read_panel(http, url, target["expr"], span):
                    points = points_of(series["values"], span[0])
                    label = legend_of(target.get("legendFormat", ""), series["metric"])
                    axis.plot(
                        *zip(*points, strict=True), ".-", label=label, linewidth=1, markersize=2
                    )
                    shown += 1
            if not shown:
                print(f"{name}: {panel['title']}: no sample")  # noqa: T201
            elif shown <= SERIES_MAX:
                axis.legend(fontsize=6, loc="upper left", ncols=1 + shown // 8)
            axis.set_xlim(0, span[1] - span[0])
            axis.set_ylim(bottom=0)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=70)
        plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    asked, options = parser.parse_known_args()
    folder: Path = asked.folder
    times, targets = folder / "times.json", folder / "targets.json"
    is_again = times.exists()
    folder.mkdir(parents=True, exist_ok=is_again)
    targets.write_text("[]")
    made = subprocess.run([ROOT / "tools/prometheus"], capture_output=True, text=True, check=True)
    scraped = {"file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
    with prometheus(Path(made.stdout.strip()), folder, scraped) as url:
        if not is_again:
            times.write_text(json.dumps(run_chaos(folder, options, targets)))
        span = tuple(json.loads(times.read_bytes()))
        until_ready(url)
        with httpx.Client(trust_env=False, timeout=60) as http:
            draw(http, url, span, folder)
    report = json.loads((folder / "report.json").read_bytes() or b"{}")
    print(f"good: {report.get('good')}, faults: {report.get('faults')}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
