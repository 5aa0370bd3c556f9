"""The table of coverage: sums by package, no dates."""

from __future__ import annotations

from tools.coverage_table import counted, package_of, row


def _file(statements: int, run: int, branches: int, taken: int) -> dict[str, dict[str, int]]:
    return {
        "summary": {
            "num_statements": statements,
            "covered_lines": run,
            "num_branches": branches,
            "covered_branches": taken,
        }
    }


def test_modules_are_summed_by_package_and_over_all() -> None:
    table = counted(
        {
            "eventsched/store/cell.py": _file(10, 9, 4, 2),
            "eventsched/store/lua/deep.py": _file(10, 10, 0, 0),
            "eventsched/errors.py": _file(3, 0, 0, 0),
            "projections/job.py": _file(7, 7, 2, 2),
        }
    )
    assert [row(name, sums) for name, sums in table.items()] == [
        "| eventsched | 1 | 3 | 0 % | - |\n",
        "| eventsched/store | 2 | 20 | 95 % | 50 % |\n",
        "| projections | 1 | 7 | 100 % | 100 % |\n",
        "| all | 4 | 30 | 86 % | 66 % |\n",
    ]


def test_a_module_belongs_to_the_package_below_the_root() -> None:
    assert package_of("eventsched/demo/speech/nodes.py") == "eventsched/demo"
    assert package_of("eventsched/errors.py") == "eventsched"
    assert package_of("projections/job.py") == "projections"
