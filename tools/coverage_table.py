"""Writes docs/coverage.md: how much of each package the tests run, from the data of coverage.

    make coverage

Owns: the table. Never does: measuring (pyproject.toml says what is measured, and how).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "coverage.md"
HEAD = """\
# Coverage

The lines and branches of each package that `make test` runs, with the server of the wheel.
Processes that tests start are included. Lua functions are not; `make mutants` shows how well they
are tested. `make coverage` writes this page.

| package | modules | statements | lines run | branches taken |
|---|---:|---:|---:|---:|
"""


class Counted(NamedTuple):
    """Sums over the modules of a package."""

    modules: int = 0
    statements: int = 0
    run: int = 0
    branches: int = 0
    taken: int = 0

    def plus(self, summary: dict[str, int]) -> Counted:
        return Counted(
            self.modules + 1,
            self.statements + summary["num_statements"],
            self.run + summary["covered_lines"],
            self.branches + summary["num_branches"],
            self.taken + summary["covered_branches"],
        )


def package_of(file: str) -> str:
    """`eventsched/store/cell.py` -> `eventsched/store`; a module beside packages is in the root."""
    parts = Path(file).parts
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def counted(files: dict[str, dict[str, dict[str, int]]]) -> dict[str, Counted]:
    """By package, in order; the last row is all of them."""
    found: defaultdict[str, Counted] = defaultdict(Counted)
    for file in sorted(files):
        for name in (package_of(file), "all"):
            found[name] = found[name].plus(files[file]["summary"])
    everything = found.pop("all", Counted())
    return dict(sorted(found.items())) | {"all": everything}


def row(name: str, sums: Counted) -> str:
    cells = (name, str(sums.modules), str(sums.statements), _share(sums.run, sums.statements))
    return f"| {' | '.join((*cells, _share(sums.taken, sums.branches)))} |\n"


def _share(part: int, whole: int) -> str:
    return f"{100 * part // whole} %" if whole else "-"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(report)]
        subprocess.run(command, cwd=ROOT, check=True)
        files = json.loads(report.read_text())["files"]
    table = counted(files)
    TARGET.write_text(HEAD + "".join(row(name, sums) for name, sums in table.items()))
    print(f"wrote {TARGET.relative_to(ROOT)}: {_share(table['all'].run, table['all'].statements)}")


if __name__ == "__main__":
    main()
