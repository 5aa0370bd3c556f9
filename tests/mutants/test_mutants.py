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
from tests.mutants.plan import MODEL, SETS, noticing, users_of
from tests.mutants.run import Survivor, reasons, sampled, survivors


@pytest.fixture(scope="module")
def every_mutant() -> list[Mutant]:
    return [*lua.all_mutants(), *chosen.all_mutants()]


def _source(mutant: Mutant) -> bytes:
    return (ROOT / mutant.file).read_bytes()


def test_every_mutant_is_a_change_that_still_parses(every_mutant: list[Mutant]) -> None:
    for mutant in every_mutant:
        source = _source(mutant)
        changed = mutant.applied(source)
        assert changed != source, mutant
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


BEFORE = """local function first(jobs, now)
  if jobs[1].due > now then return nil end
  write('DEL', keys.of('job', jobs[1].id))
  write('DEL', keys.of('job', jobs[1].id))
end
"""
AFTER = """local least = 7
-- A comment.
local function first(waiting, at_ms)
  if least > 1 then return nil end
  if waiting[1].due > at_ms then return nil end
  write('DEL', keys.of('job', waiting[1].id))
  write('DEL', keys.of('job', waiting[1].id))
end
"""


def test_an_anchor_stays_when_lines_move_and_variables_are_renamed(tmp_path: Path) -> None:
    file = tmp_path / "some.lua"
    file.write_text(BEFORE)
    before = {one.anchor for one in lua.of_file(tmp_path, file)}
    file.write_text(AFTER)
    after = {one.anchor for one in lua.of_file(tmp_path, file)}
    assert len(before) == 4
    assert {one.kind for one in after - before} == {"negated", "moved"}  # of the new condition
    assert before < after
    assert {one.function for one in after} == {"first"}


def test_a_survivor_is_found_by_its_syntax_also_under_a_new_name(tmp_path: Path) -> None:
    file = tmp_path / "other.lua"
    file.write_text(AFTER.replace("first", "earliest"))
    one = Survivor(
        file="include/some.lua",
        function="first",
        kind="moved",
        code="jobs[1].due > now",
        reason="?",
    )
    assert [found.line for found in one.of(lua.of_file(tmp_path, file))] == [5]
    file.write_text(BEFORE.replace("due >", "due >="))
    assert one.of(lua.of_file(tmp_path, file)) == []
    twice = AFTER.replace("first", "earliest") + AFTER.replace("first", "latest")
    file.write_text(twice)
    assert len(one.of(lua.of_file(tmp_path, file))) == 2  # nobody can tell which


def test_a_fault_whose_source_has_changed_is_told() -> None:
    with pytest.raises(Stale, match="gone: step has 'not in there' at 0 places"):
        Fault("gone", "step", "not in there", "", ()).mutant()


def test_a_fault_is_found_in_whatever_form_and_file_it_is(tmp_path: Path) -> None:
    file = tmp_path / "eventsched" / "moved" / "elsewhere.py"
    file.parent.mkdir(parents=True)
    source = "class A:\n  def f(self):\n    é = 1\n    return g(\n      é,  # one\n    )\n"
    file.write_text(source)
    mutant = Fault("nothing comes back", "f", "return g(é,", "return h(é,", ()).mutant(tmp_path)
    assert (mutant.file, mutant.line) == ("eventsched/moved/elsewhere.py", 4)
    assert mutant.applied(source.encode()).decode().splitlines()[3:] == [
        "    return h(é,  # one", "    )",
    ]  # fmt: skip


def test_at_least_fifteen_faults_are_chosen() -> None:
    assert len(chosen.FAULTS) >= 15


def test_each_is_looked_at_by_tests_that_are_there(every_mutant: list[Mutant]) -> None:
    tests: set[str] = set()
    for mutant in every_mutant:
        assert noticing(mutant)
        tests.update(noticing(mutant))
    for test in tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), test
        assert not name or f"def {name}(" in (ROOT / path).read_text(), test


def test_a_sample_is_drawn_from_a_seed() -> None:
    first, second, other = sampled(1, "")[0], sampled(1, "")[0], sampled(2, "")[0]
    assert first == second != other
    assert Counter(one.kind == "chosen" for one in first) == {False: 150, True: len(chosen.FAULTS)}


def test_each_reason_is_given_for_one_mutant_that_there_is() -> None:
    mutants = lua.all_mutants()
    found = {one.code: [mutant.name for mutant in one.of(mutants)] for one in survivors()}
    assert {code: names for code, names in found.items() if len(names) != 1} == {}
    assert len(reasons(mutants)) == len(survivors())


def test_tests_follow_the_includes_and_the_words_of_a_script(every_mutant: list[Mutant]) -> None:
    assert "fire_timers" in users_of("timers")
    by_file = {Path(mutant.file).stem: noticing(mutant) for mutant in every_mutant}
    assert by_file["retry_dead_letters"][0] == "tests/scripts/test_dead_letters.py"
    assert by_file["queue"][0] == MODEL  # many scripts include it
    assert "tests/scripts/test_waiting.py" in by_file["queue"]
    assert by_file["save_views"][:2] == (SETS, "tests/projector/test_projector.py")


def test_a_mutant_is_caught_in_a_copy_and_leaves_no_trace(
    tmp_path: Path, every_mutant: list[Mutant]
) -> None:
    bench = Bench(tmp_path / "copy")
    mutant = next(
        one for one in every_mutant if one.code == "exactly two seconds no longer join a group"
    )
    source = _source(mutant)
    tests = ["tests/projections/test_group_rules.py"]
    caught = bench.try_out(mutant, tests, 60)
    assert (caught.code, caught.failed.partition("::")[0]) == (FAILED, tests[0])
    assert bench.run(tests, 60).code == 0
    assert bench.run(tests, 0.01).code == OUT_OF_TIME
    assert _source(mutant) == (bench.folder / mutant.file).read_bytes() == source
