"""The documents show exactly the figures of the stored run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer

from benchmarks.compare import OURS, drain_ratios
from benchmarks.micro.figures import Spread
from benchmarks.micro.jobs import NO_VIEWS, TWO_VIEWS
from benchmarks.micro.suite import BENCHES
from benchmarks.peers.environments import HERE, NAMES, settings_in
from benchmarks.publish import BEGIN, DOC, END, PLOTS, PLOTTED, README, document, read, with_table
from benchmarks.results import Results
from benchmarks.run import ALONE, OWN_COMMAND, RESULTS, main
from benchmarks.targets import TARGETS, Target


@pytest.fixture(name="results")
def stored() -> Results:
    return read(RESULTS)


def test_the_document_shows_the_figures_of_the_json(results: Results) -> None:
    assert DOC.read_text() == document(results)


def test_the_readme_shows_the_same_run(results: Results) -> None:
    text = README.read_text()
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    assert with_table(text, results) == text


def test_every_benchmark_is_reported_and_every_plot_exists(results: Results) -> None:
    assert {report.bench for report in results.reports} <= set(BENCHES)  # some may be newer
    assert {*ALONE, *OWN_COMMAND, "jobs", "latency"} == set(BENCHES)
    assert {file for file, _ in PLOTTED.values()} == {path.name for path in PLOTS.glob("*.svg")}


def test_each_peer_was_measured_or_has_a_reason_why_not(results: Results) -> None:
    assert {peer.name for peer in results.peers} | set(results.left_out) == set(NAMES)
    jobs = results.report("jobs").parts
    assert {part for part in jobs if not part.startswith(OURS)} == {p.name for p in results.peers}


def test_a_peer_that_was_left_out_leaves_its_rows_empty(results: Results) -> None:
    jobs = results.report("jobs")
    alone = msgspec.structs.replace(
        results,
        peers=[],
        left_out={"bullmq": "bullmq: node and npm are not on PATH"},
        reports=[
            msgspec.structs.replace(
                jobs,
                parts={name: jobs.parts[name] for name in jobs.parts if name.startswith(OURS)},
                ratios={},
            ),
            *results.reports[1:],
        ],
    )
    text = document(alone)
    assert "- left out: bullmq: node and npm are not on PATH" in text
    assert "| … against BullMQ's |  | ≥ 0.6x | ≥ 0.75x | not measured |" in text


@pytest.mark.parametrize(
    ("median", "reached"), [(2.0, "goal"), (1.5, "goal"), (1.2, "floor"), (0.9, "missed")]
)
def test_the_median_decides_what_is_reached(median: float, reached: str) -> None:
    target = Target("x", lambda _: None, 1.0, 1.5)
    assert target.reached(Spread(median, 0, 9)) == reached
    assert target.reached(None) == "not measured"


def test_less_can_be_better() -> None:
    target = Target("x", lambda _: None, 60, None, "ms", more=False)
    assert target.reached(Spread(59, 0, 99)) == "floor"
    assert target.reached(Spread(61, 0, 99)) == "missed"


def test_every_target_finds_its_figure(results: Results) -> None:
    has_all_peers = {peer.name for peer in results.peers} == set(NAMES)
    figures = [target.find(results) for target in TARGETS]
    assert not has_all_peers or all(figures)


@pytest.mark.parametrize("path", sorted(HERE.glob("peer_*")), ids=lambda path: path.stem)
def test_each_peer_states_its_settings(path: Path) -> None:
    end = '\n"""\n' if path.suffix == ".py" else "*/"
    settings = settings_in(path.read_text().partition(end)[0])
    assert "256" in settings
    assert "\n" not in settings


def test_ratios_are_against_the_best_python_peer_and_against_bullmq() -> None:
    ours = {
        f"{OURS}, {TWO_VIEWS}": _drain(rate=3.0, redis=150.0, client=150.0, script=3.0),
        f"{OURS}, {NO_VIEWS}": _drain(rate=6.0, redis=100.0, client=50.0, script=2.0),
    }
    python = {"saq": {"rate_per_s": 1.0}, "arq": {"rate_per_s": 2.0}}
    bullmq = {"bullmq": _drain(rate=12.0, redis=60.0, client=90.0, script=1.5)}
    against_python = {
        f"{TWO_VIEWS} / best Python peer, rate_per_s": 1.5,
        f"{NO_VIEWS} / best Python peer, rate_per_s": 3.0,
    }
    assert drain_ratios(ours | python) == against_python
    assert drain_ratios(ours | python | bullmq) == against_python | {
        f"{TWO_VIEWS} / bullmq, rate_per_s": 0.25,
        f"{TWO_VIEWS} / bullmq, all_cpu_us": 2.0,
        f"{NO_VIEWS} / bullmq, rate_per_s": 0.5,
        f"{NO_VIEWS} / bullmq, all_cpu_us": 1.0,
        "slowest / bullmq, script_p999_us": 2.0,
    }
    assert drain_ratios(ours) == {}


def _drain(*, rate: float, redis: float, client: float, script: float) -> dict[str, float]:
    return {
        "rate_per_s": rate,
        "redis_cpu_us": redis,
        "client_cpu_us": client,
        "script_p999_us": script,
    }


def test_a_run_without_traces_in_its_folder_ends_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        main(out=tmp_path / "out.json", peers="", traces=str(tmp_path))
    assert ended.value.exit_code == 1
    assert "traces: no *.rttm" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
