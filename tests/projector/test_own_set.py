"""A read model of another package is a set of its own, and runs only if the operator enables it."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from eventsched.errors import InvalidMessage
from eventsched.examples.minutes import Day
from eventsched.projection.installed import (
    VARIABLE,
    NotEnabled,
    ProjectionUnavailable,
    check_names,
    load_core,
    load_set,
    load_sets,
    not_enabled,
)
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from tests.cli.programs import json_of, program, run
from tests.fixtures_store import TimedStore

HOSTILE = "open({mark!r}, 'a').write('imported')\nfrom eventsched.examples.minutes import Minutes\n"

TWO = """
from eventsched.projection.protocol import ProjectionSet
from eventsched.examples.minutes import Minutes

class Inner(Minutes):
    name = "{inner}"

projections = ProjectionSet("{outer}", (Inner(),))
"""


def install(folder: Path, package: str, *points: str) -> None:
    """Put the metadata of a package into the folder, as an installation does."""
    metadata = folder / f"{package.replace('-', '_')}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    lines = ["[eventsched.projections]", *points, ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages on the path of this process."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    return site


async def test_an_enabled_projection_of_another_package_is_folded_as_a_set_of_its_own(
    store: TimedStore, site: Path
) -> None:
    install(site, "speech-minutes", "minutes = eventsched.examples.minutes:Minutes")
    core, minutes = load_sets({VARIABLE: "minutes"})
    assert (core.name, minutes.name) == ("core", "minutes")
    session = await store.open()
    for seq in range(3):
        await store.say(session, seq, ms=500, end_of_utterance=True)
    store.tick(24 * 3_600_000)
    resumed = await store.open("s2")
    await store.say(resumed, 0, ms=40, end_of_utterance=True)
    views = ProjectionStore(store.transport, store.cell)
    projector = Projector(views, minutes)
    while (await projector.step()).state != "idle":
        pass
    assert await views.active_revision("minutes") == "1.1"
    days = [f"1970-01-0{number}" for number in (1, 2, 3)]
    records = await views.load("minutes", "1.1", days)
    folded = [msgspec.msgpack.decode(each["v"], type=Day) for each in records[:2]]
    assert folded == [Day(utterances=3, audio_ms=1_500), Day(utterances=1, audio_ms=40)]
    assert records[2] == {}


@pytest.mark.parametrize("value", ["", "core", " core , ", "core,other"])
def test_a_projection_that_is_not_named_is_not_imported(site: Path, value: str) -> None:
    mark = site / "mark"
    (site / "speech_hostile.py").write_text(HOSTILE.format(mark=str(mark)))
    install(site, "speech-minutes", "minutes = speech_hostile:Minutes")
    install(site, "speech-other", "other = eventsched.examples.minutes:Other")
    others = [NotEnabled(name="minutes", package="speech-minutes")]
    if "other" not in value:
        assert load_sets({VARIABLE: value}) == [load_core()]
        others += [NotEnabled(name="other", package="speech-other")]
    assert not_enabled({VARIABLE: value}) == others
    assert not mark.exists()
    assert "speech_hostile" not in sys.modules


def test_no_command_or_role_imports_a_projection_that_is_not_named(
    site: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    (site / "speech_hostile.py").write_text(HOSTILE.format(mark=str(mark)))
    install(site, "speech-minutes", "minutes = speech_hostile:Minutes")
    here = {"PYTHONPATH": f"{site}:{Path(__file__).parents[2]}"}
    data = tmp_path / "data"
    with program(data, "up", "--json", env=here) as up:
        up.first_line()
        status = json_of(run(data, "status", "--json", env=here))
        shown = run(data, "status", env=here).stdout.decode()
        verified = run(data, "verify", env=here)
        state = run(data, "state", "minutes", "2026-11-25", env=here)
        assert not mark.exists()
        enabled = here | {VARIABLE: "minutes"}
        health = json_of(run(data, "status", "--json", env=enabled))
        assert not mark.exists(), "status needs the names only"
        run(data, "state", "minutes", "2026-11-25", env=enabled)
        assert mark.read_text() == "imported"
    assert status["projections_not_enabled"] == [{"name": "minutes", "package": "speech-minutes"}]
    assert "projection minutes of speech-minutes: not enabled (EVENTSCHED_PROJECTIONS)" in shown
    assert verified.returncode == 0
    assert state.returncode == 1
    assert b"of the package speech-minutes is not enabled; set EVENTSCHED_PROJECTIONS=minutes" in (
        state.stderr
    )
    assert health["projections_not_enabled"] == []
    sets = [each["projection_set"] for each in health["cells"][0]["roles"]]
    assert [name for name in sets if name] == ["core", "minutes"]


def test_a_rebuild_before_the_first_fold_names_the_projector(site: Path, tmp_path: Path) -> None:
    """A rebuild folds up to the position of the set, which is at the start."""
    install(site, "speech-minutes", "minutes = eventsched.examples.minutes:Minutes")
    here = {"PYTHONPATH": f"{site}:{Path(__file__).parents[2]}"}
    with program(tmp_path, "up", "--json", "--no-gateway", env=here) as up:
        up.first_line()
        enabled = here | {VARIABLE: "minutes"}
        done = run(tmp_path, "rebuild", "minutes", "--why", "a test", env=enabled)
    assert done.returncode == 0, done.stderr
    assert "c0: minutes has folded no event yet" in " ".join(done.stderr.decode().split())


def test_a_name_that_no_package_or_more_than_one_has_is_refused(site: Path) -> None:
    with pytest.raises(InvalidMessage, match="no installed package has the projection 'minutes'"):
        load_sets({VARIABLE: "core,minutes"})
    for package in ("speech-minutes", "a-copy"):
        install(site, package, "minutes = nowhere:Minutes")
    with pytest.raises(InvalidMessage, match="'minutes' is in several packages: a-copy, speech-"):
        load_sets({VARIABLE: "core,minutes"})


@pytest.mark.parametrize(
    "name",
    ["session", "group", "job", "node", "archive", "dispatch", "rebuild-core", "rebuild-x", "a:b"],
)
def test_a_projection_with_a_name_of_the_system_is_refused_before_its_import(
    site: Path, name: str
) -> None:
    """It would share keys with built-in records, or take the lease of an archiver."""
    install(site, "speech-names", f"{name} = nowhere:Minutes")
    with pytest.raises(InvalidMessage, match=f"'{name}' of the package speech-names is "):
        load_sets({VARIABLE: name})
    assert load_sets({VARIABLE: ""}) == [load_core()]


@pytest.mark.parametrize("inner", ["session", "archive", "rebuild-minutes", "core"])
def test_a_set_of_a_package_has_no_projection_with_a_name_of_the_system(
    site: Path, inner: str
) -> None:
    (site / "speech_two.py").write_text(TWO.format(outer="two", inner=inner))
    sys.modules.pop("speech_two", None)
    install(site, "speech-two", "two = speech_two:projections")
    with pytest.raises(InvalidMessage, match=f"'{inner}' of the package speech-two is a name of"):
        load_sets({VARIABLE: "two"})


def test_two_packages_have_no_projections_of_one_name(site: Path) -> None:
    (site / "speech_two.py").write_text(TWO.format(outer="two", inner="minutes"))
    sys.modules.pop("speech_two", None)
    install(site, "speech-two", "two = speech_two:projections")
    install(site, "speech-minutes", "minutes = eventsched.examples.minutes:Minutes")
    assert [each.name for each in load_sets({VARIABLE: "two"})] == ["core", "two"]
    with pytest.raises(
        InvalidMessage,
        match="'minutes' of the package speech-two is a name of the package speech-minutes",
    ):
        load_sets({VARIABLE: "minutes,two"})


def test_the_built_in_set_is_never_that_of_another_package(site: Path) -> None:
    install(site, "speech-core", "core = nowhere:core")
    assert load_sets({VARIABLE: "core"}) == [load_core()]
    assert not_enabled({VARIABLE: "core"}) == [NotEnabled(name="core", package="speech-core")]


BROKEN = {
    "minutes = eventsched.examples.minutes:Absent": "AttributeError: module 'eventsched.exampl",
    "minutes = speech_absent:Minutes": "ModuleNotFoundError: No module named 'speech_absent'",
    "minutes = speech_exits:Minutes": "SystemExit: no licence",
    "minutes = eventsched.examples.minutes:__name__": "TypeError: entry point 'minutes' in ",
    "hours = eventsched.examples.minutes:Minutes": "TypeError: entry point 'hours' has the pro",
}
"""Entry points whose code cannot be loaded, and the beginning of the reason."""


@pytest.mark.parametrize("point", BROKEN)
def test_a_projection_whose_code_cannot_be_loaded_is_left_out_and_named(
    site: Path, point: str
) -> None:
    """The last one could fold into the records of another set."""
    (site / "speech_exits.py").write_text("raise SystemExit('no licence')\n")
    install(site, "speech-minutes", point)
    name = point.partition(" ")[0]
    reason = (
        f"the projection {name} of the package speech-minutes cannot be loaded: {BROKEN[point]}"
    )
    environ = {VARIABLE: name}
    with capture_logs() as logs:
        assert load_sets(environ) == [load_core()]
    ((event, line),) = [(each["event"], each["reason"]) for each in logs]
    assert event == "projection left out"
    assert line.startswith(reason)
    with pytest.raises(ProjectionUnavailable, match=re.escape(reason)):
        load_set(name, environ)
    assert check_names(environ) == sorted(["core", name])


def test_roles_run_beside_a_projection_whose_code_cannot_be_loaded(
    site: Path, tmp_path: Path
) -> None:
    install(site, "speech-minutes", "minutes = speech_absent:Minutes")
    here = {"PYTHONPATH": f"{site}:{Path(__file__).parents[2]}", VARIABLE: "minutes"}
    data = tmp_path / "data"
    with program(data, "up", "--json", env=here) as up:
        up.first_line()
        until_check = time.monotonic() + 60
        while b"minutes" not in (checked := run(data, "status", "--check", env=here)).stdout:
            assert time.monotonic() < until_check
        verified = run(data, "verify", env=here)
        state = run(data, "state", "minutes", "2026-11-25", env=here)
    assert checked.returncode == 1
    assert b"projector minutes" in checked.stdout
    assert b"No module named 'speech_absent'" in checked.stdout
    assert verified.returncode == 0
    assert state.returncode == 1
    assert b"projection minutes of the package speech-minutes cannot be loaded" in state.stderr
