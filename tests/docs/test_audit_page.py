"""docs/audit.md and its pictures are what the commands on the page print."""

from __future__ import annotations

import subprocess
import sys

from tools.audit_run import ROOT


def test_the_audit_page_has_the_output_of_its_commands() -> None:
    """In a process of its own, because the commands configure logs and read the environment."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.audit_run", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-500:]}{done.stderr[-2_000:]}"
