"""Mutants: does the suite notice when the scripts, the folds or the loops are wrong?

python -m tests.mutants.run                      at most 150 of the scripts' mutants, every fault
python -m tests.mutants.run --only queue.lua     those whose name has this in it, all of them
python -m tests.mutants.run --again              those that survived the last run

Owns: the choice of mutants, two workers, the verdicts, the table and the JSON.
Never does: change the checkout: each worker has a copy. Read next: lua.py, chosen.py, plan.py.

A mutant is caught when a test fails. A run may take three times what the same tests, unmutated,
need; a run that is out of time counts as caught. tests/mutants/survivors.json says of each
mutant that no test notices why that is right.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Literal, TypeAlias

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.mutants import chosen, lua
from tests.mutants.bench import FAILED, OUT_OF_TIME, Bench, Run
from tests.mutants.mutant import Mutant
from tests.mutants.plan import noticing, others

WORKERS = 2
SAMPLE = 150
LIMIT_S = 20.0
CAUGHT_MIN = 0.95
REASONS = Path(__file__).parent / "survivors.json"


End: TypeAlias = Literal["caught", "out of time", "survived"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one mutant."""

    place: str
    kind: str
    name: str
    end: End
    seconds: float
    by: str = ""
    """The test that failed."""
    reason: str = ""
    """Why no test notices it; empty without a reason."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    seed: int
    of: int
    """Mutants there are."""
    ran: int
    caught: int
    out_of_time: int
    """Of the caught."""
    seconds: float
    cpus: int
    verdicts: list[Verdict]

    @property
    def survivors(self) -> list[Verdict]:
        return [one for one in self.verdicts if one.end == "survived"]

    @property
    def is_good(self) -> bool:
        explained = all(one.reason for one in self.survivors)
        return self.caught >= CAUGHT_MIN * self.ran and explained


class Survivor(msgspec.Struct, frozen=True, kw_only=True):
    """A mutant that no test notices, by its anchor, and why that is right."""

    file: str
    """Below lua/; counts where several files have such a place."""
    function: str
    kind: str
    code: str
    """As it was written once: its variables may have other names by now."""
    nth: int = 0
    reason: str

    def of(self, mutants: Sequence[Mutant]) -> list[Mutant]:
        """The mutants that this may be: one, unless the scripts have changed. A file or function
        that is no more does not count, it has another name; then the code must be unlike any other.
        """
        shape = lua.shape_of(self.code)
        found = [one for one in mutants if (one.kind, one.anchor.shape) == (self.kind, shape)]
        path = f"{lua.FOLDER}/{self.file}"
        if any(one.file == path for one in mutants):
            found = [one for one in found if one.file == path]
        if not any(one.anchor.function == self.function for one in mutants):
            return found
        named = [one for one in found if one.anchor.function == self.function]
        return [one for one in named if one.anchor.nth == self.nth]


def survivors() -> list[Survivor]:
    return msgspec.json.decode(REASONS.read_bytes(), type=list[Survivor])


def reasons(mutants: Sequence[Mutant]) -> dict[str, str]:
    """Name of a mutant -> why it survives."""
    return {found.name: one.reason for one in survivors() for found in one.of(mutants)}


def sampled(seed: int, only: str) -> tuple[list[Mutant], int]:
    """The mutants to run, in their order, and how many there are."""
    scripts, faults = lua.all_mutants(), chosen.all_mutants()
    if only:
        return [one for one in scripts + faults if only in one.name], len(scripts) + len(faults)
    at = range(len(scripts))
    picked = sorted(random.Random(seed).sample(at, min(SAMPLE, len(scripts))))
    return [scripts[one] for one in picked] + faults, len(scripts) + len(faults)


class Trial:
    """Runs mutants, each on a bench that is free."""

    def __init__(self, benches: Sequence[Bench], limit_s: float) -> None:
        self._free: SimpleQueue[Bench] = SimpleQueue()
        for bench in benches:
            self._free.put(bench)
        self._limit_s = limit_s
        self._reasons = reasons(lua.all_mutants())
        self.unmutated: dict[str, float] = {}
        """What each test (or file or folder of them) needs when nothing is wrong."""

    def measure(self, test: str) -> None:
        """Unmutated it passes, or there is nothing to learn from it."""
        bench = self._free.get()
        try:
            run = bench.run([test], 10 * self._limit_s)
        finally:
            self._free.put(bench)
        if run.code:
            raise SystemExit(f"unmutated, {test} ends with {run.code}:\n{run.output}")
        self.unmutated[test] = run.seconds

    def judge(self, mutant: Mutant) -> Verdict:
        run = self._run(mutant, noticing(mutant))
        if _end_of(run.code) == "survived" and (more := others(mutant)):
            run = self._run(mutant, more)
        return Verdict(
            place=mutant.place,
            kind=mutant.kind,
            name=mutant.name,
            end=_end_of(run.code),
            seconds=round(run.seconds, 1),
            by=run.failed,
            reason=self._reasons.get(mutant.name, ""),
        )

    def _run(self, mutant: Mutant, tests: Sequence[str]) -> Run:
        limit_s = max(self._limit_s, 3 * sum(self.unmutated[test] for test in tests))
        bench = self._free.get()
        try:
            return bench.try_out(mutant, tests, limit_s)
        finally:
            self._free.put(bench)


def _end_of(code: int) -> End:
    if code == OUT_OF_TIME:
        return "out of time"
    # any other code (nothing collected, usage) says nothing about the mutant
    return "caught" if code == FAILED else "survived"


def run_all(mutants: Sequence[Mutant], limit_s: float, console: Console) -> list[Verdict]:
    """Every verdict; progress goes to the console."""
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ThreadPoolExecutor(WORKERS) as pool,
        Progress(console=console) as progress,
    ):
        trial = Trial([Bench(Path(folder) / f"{n}") for n in range(WORKERS)], limit_s)
        tests = sorted({test for one in mutants for test in (*noticing(one), *others(one))})
        for _ in progress.track(
            pool.map(trial.measure, tests), total=len(tests), description="unmutated"
        ):
            pass
        verdicts = []
        for one in progress.track(
            pool.map(trial.judge, mutants), total=len(mutants), description="mutants"
        ):
            verdicts.append(one)
            if one.end == "survived":
                progress.console.print(f"survived: {one.place} {one.name}", markup=False)
        return verdicts


def table(report: Report) -> Table:
    """By file: how many ran, were caught, survived."""
    ran = Counter(_file(one) for one in report.verdicts)
    survived = Counter(_file(one) for one in report.survivors)
    made = Table("file", "mutants", "caught", "survived")
    for name in sorted(ran):
        made.add_row(name, str(ran[name]), str(ran[name] - survived[name]), str(survived[name]))
    made.add_section()
    made.add_row("all", str(report.ran), str(report.caught), str(len(report.survivors)))
    return made


def _file(verdict: Verdict) -> str:
    return verdict.place.partition(":")[0]


def tell(report: Report, console: Console) -> None:
    console.print(table(report))
    for one in report.survivors:
        why = one.reason or "NO REASON GIVEN"
        console.print(f"{one.place} {one.name}\n  {why}", markup=False, highlight=False)
    console.print(
        f"{report.caught} of {report.ran} caught ({100 * report.caught / report.ran:.1f} %,"
        f" {report.out_of_time} by running out of time), {report.of} there are, seed"
        f" {report.seed}, {report.seconds / 60:.1f} min on {report.cpus} CPUs"
    )


def main(
    seed: Annotated[int, typer.Option(help="Which of the scripts' mutants.")] = 1,
    only: Annotated[str, typer.Option(help="Those with this in their name, all of them.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Those that survived before.")] = False,
    limit_s: Annotated[float, typer.Option(help="The least time that a run may take.")] = LIMIT_S,
    json: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("mutants.json"),
) -> None:
    """Run mutants; exit code 1 when fewer than 95 % are caught or one survives unexplained."""
    console, began = Console(soft_wrap=True, stderr=True), time.monotonic()
    mutants, of = sampled(seed, only)
    if again:
        before = msgspec.json.decode(json.read_bytes(), type=Report).survivors
        names = {one.name for one in before if not one.reason}
        mutants = [one for one in mutants if one.name in names]
    if not mutants:
        console.print("no such mutant")
        raise typer.Exit(1)
    verdicts = run_all(mutants, limit_s, console)
    ends = Counter(one.end for one in verdicts)
    report = Report(
        seed=seed,
        of=of,
        ran=len(verdicts),
        caught=len(verdicts) - ends["survived"],
        out_of_time=ends["out of time"],
        seconds=round(time.monotonic() - began, 1),
        cpus=os.cpu_count() or 1,
        verdicts=verdicts,
    )
    json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    tell(report, Console(soft_wrap=True))
    raise typer.Exit(0 if report.is_good else 1)


if __name__ == "__main__":
    typer.run(main)
