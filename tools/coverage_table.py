"""Write docs/coverage.md, the test coverage of each package, from the data of `coverage`.

    make coverage

Owns: the table. Never does: measure; pyproject.toml configures the measurement.
Read next: docs/coverage.md.
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

The share of lines and branches of each package that `make test` runs, with the server of the wheel
and including the processes that tests start. The Lua scripts are not included: `make mutants`
measures their tests. `make coverage` writes this page.

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
        """Return the sums with one more module."""
        return Counted(
            self.modules + 1,
            self.statements + summary["num_statements"],
            self.run + summary["covered_lines"],
            self.branches + summary["num_branches"],
            self.taken + summary["covered_branches"],
        )


def package_of(file: str) -> str:
    """Return the package of a file; a module outside a package belongs to the root package."""
    parts = Path(file).parts
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def counted(files: dict[str, dict[str, dict[str, int]]]) -> dict[str, Counted]:
    """Return the sums by package in alphabetical order; the last key is `all`."""
    sums: defaultdict[str, Counted] = defaultdict(Counted)
    for file in sorted(files):
        for name in (package_of(file), "all"):
            sums[name] = sums[name].plus(files[file]["summary"])
    total = sums.pop("all", Counted())
    return dict(sorted(sums.items())) | {"all": total}


def row(name: str, sums: Counted) -> str:
    """Return the table row of a package."""
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
