"""The mutants are what they say: one change each of what is really there, run on a copy."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import chosen, lua
from tests.mutants.bench import FAILED, OUT_OF_TIME, Bench
from tests.mutants.chosen import Fault, Stale
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.plan import noticing
from tests.mutants.run import reasons, sampled

ALL = [*lua.all_mutants(), *chosen.all_mutants()]


def _source(mutant: Mutant) -> bytes:
    return (ROOT / mutant.file).read_bytes()


def test_every_mutant_is_a_change_that_still_parses() -> None:
    for mutant in ALL:
        changed = mutant.applied(_source(mutant))
        assert changed != _source(mutant), mutant
        if mutant.file.endswith(".lua"):
            assert lua.is_valid(changed), mutant
        else:
            ast.parse(changed)


def test_conditions_writes_and_boundaries_are_changed_mechanically(tmp_path: Path) -> None:
    file = tmp_path / "some.lua"
    file.write_text(
        "if a < b then write('SET', 'k', 1) end\nlocal id = events.RoomLeft(s)\n"
        "if x then y() elseif z == 2 then write('XADD', 's') redis.call('GET', 'k') end\n"
    )
    found = [
        (one.kind, one.line, one.applied(file.read_bytes()).decode().splitlines()[one.line - 1])
        for one in lua.of_file(tmp_path, file)
    ]
    branches = "if x then y() elseif z == 2 then write('XADD', 's') redis.call('GET', 'k') end"
    assert found == [
        ("negated", 1, "if not (a < b) then write('SET', 'k', 1) end"),
        ("moved", 1, "if a <= b then write('SET', 'k', 1) end"),
        ("removed", 1, "if a < b then  end"),
        ("removed", 2, "local id = '0'"),
        ("negated", 3, branches.replace("if x", "if not (x)", 1)),
        ("negated", 3, branches.replace("elseif z == 2", "elseif not (z == 2)")),
        ("removed", 3, branches.replace("write('XADD', 's')", "")),
    ]


def test_a_fault_whose_source_has_changed_is_told() -> None:
    with pytest.raises(Stale, match="gone: 0 places"):
        Fault("gone", "eventsched/roles/dispatcher", "not in there", "").mutant()


def test_at_least_fifteen_faults_are_chosen() -> None:
    assert len(chosen.FAULTS) >= 15


def test_each_is_looked_at_by_tests_that_are_there() -> None:
    for mutant in ALL:
        assert noticing(mutant.file)
        for test in noticing(mutant.file):
            path, _, name = test.partition("::")
            assert (ROOT / path).exists(), test
            assert not name or f"def {name}(" in (ROOT / path).read_text(), test


def test_a_sample_is_drawn_from_a_seed() -> None:
    first, second, other = sampled(1, "")[0], sampled(1, "")[0], sampled(2, "")[0]
    assert first == second != other
    assert Counter(one.kind == "chosen" for one in first) == {False: 150, True: len(chosen.FAULTS)}


def test_reasons_are_given_for_mutants_that_there_are() -> None:
    assert set(reasons()) <= {one.name for one in ALL}


def test_a_mutant_is_caught_in_a_copy_and_leaves_no_trace(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "copy")
    name = "projections/group.py chosen: exactly two seconds no longer join a group"
    mutant = next(one for one in ALL if one.name == name)
    source = _source(mutant)
    tests = ["tests/projections/test_group_rules.py"]
    caught = bench.try_out(mutant, tests, 60)
    assert (caught.code, caught.failed.partition("::")[0]) == (FAILED, tests[0])
    assert bench.run(tests, 60).code == 0
    assert bench.run(tests, 0.01).code == OUT_OF_TIME
    assert _source(mutant) == (bench.folder / mutant.file).read_bytes() == source
