"""`programs`: Prometheus and promtool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import ROOT


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of Prometheus and promtool."""
    made = subprocess.run([ROOT / "tools/prometheus"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())
