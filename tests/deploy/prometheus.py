"""Starts Debian's Prometheus for a test or a picture.

Owns: its configuration and its process. Never does: query. Read next: test_prometheus.py, plots.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eventsched.server.launch import free_ports
from tests.deploy.files import DEPLOY


@contextmanager
def prometheus(programs: Path, folder: Path, scraped: Mapping[str, Any]) -> Iterator[str]:
    """A Prometheus that scrapes each second, with the rules; yields its URL.

    Args:
        programs: Folder of the program.
        folder: Gets its configuration, data and log.
        scraped: How it finds what it scrapes, as in a `scrape_config`.
    """
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(DEPLOY / "prometheus/rules.yml")],
                "scrape_configs": [{"job_name": "eventsched", **scraped}],
            }
        )
    )
    log = (folder / "prometheus.log").open("wb")
    process = subprocess.Popen(
        [
            programs / "prometheus", f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log, stderr=log, env=os.environ | {"GOMAXPROCS": "1"},
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()
