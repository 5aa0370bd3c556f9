"""The wheel in an empty environment: roles, a session with a node, and verify."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cli.programs import APPLICATION

ROOT = Path(__file__).parents[2]
SPEECH_BYTES_MAX = 300_000
SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
HANDLER = """
@node.job
async def answer(job):
    return eventsched.Result(text=f"{len(await job.audio())} bytes")
"""


def _package_files() -> set[str]:
    """Return the files that a wheel must have: both packages with scripts, speech and types."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in ("eventsched", "projections")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the hatchling of the lock file."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--wheel", "--no-isolation", "--outdir", str(folder))
    _run(sys.executable, "-m", "build", *options, str(ROOT), cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Install the wheel and what it requires; return the environment's `bin` folder.

    The required distributions are links to those of this environment: nothing else of it can be
    imported, and no index is asked.
    """
    folder = wheel.parent
    venv.create(folder / "env", with_pip=False)
    binaries = folder / "env" / "bin"
    packages = Path(_run(str(binaries / "python"), "-c", SITE_PACKAGES, cwd=folder).strip())
    for name in _required("eventsched") - {"eventsched"}:
        _link(distribution(name), packages)
    options = ("--quiet", "--offline", "--no-deps", "--python", str(binaries / "python"))
    _run(sys.executable, "-m", "uv", "pip", "install", *options, str(wheel), cwd=folder)
    return binaries


def _required(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Return a distribution and all that it requires here, by their names."""
    required: dict[str, frozenset[str]] = {}
    pending = [(name, extras)]
    while pending:
        name, extras = pending.pop()
        if extras <= required.get(name, frozenset()) and name in required:
            continue
        required[name] = required.get(name, frozenset()) | extras
        for requirement in map(Requirement, distribution(name).requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in {"", *extras}):
                pending.append((requirement.name, frozenset(requirement.extras)))
    return set(required)


def _link(installed: Distribution, packages: Path) -> None:
    """Link the folders and modules of a distribution into site-packages."""
    files = [file for file in installed.files or () if file.parts[0] != ".."]
    for name in {file.parts[0] for file in files} - {"__pycache__"}:
        if not (packages / name).exists():
            (packages / name).symlink_to(Path(str(installed.locate_file(name))))


@pytest.fixture
def up(installed: Path, tmp_path: Path) -> Iterator[Path]:
    """Run `eventsched up` in an empty folder during the test."""
    process = subprocess.Popen(
        [installed / "eventsched", "--quiet", "up"],
        cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("ready: ")
        yield tmp_path
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def test_the_wheel_has_both_packages_and_its_speech_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [file for file in archive.infolist() if ".dist-info/" not in file.filename]
    assert _package_files() == {file.filename for file in files}
    speech = [file for file in files if "/voices/" in file.filename]
    assert speech
    assert sum(file.file_size for file in speech) < SPEECH_BYTES_MAX


def test_the_main_job_runs_from_the_wheel_and_verify_is_clean(installed: Path, up: Path) -> None:
    # 100 ms of audio, and 280 ms of silence as the padding of a final utterance
    output = _run(str(installed / "python"), "-c", APPLICATION.format(handler=HANDLER), cwd=up)
    assert output.split("\n")[0] == f"result {3_200 + 280 * 32} bytes"
    report = json.loads(_run(str(installed / "eventsched"), "--json", "verify", cwd=up))
    assert report["clean"] is True
    assert report["cells"][0]["sessions"] == 1


def test_the_demo_without_a_recogniser_names_the_extra(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "eventsched", "demo"],
        cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "eventsched[speech]" in done.stderr


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    dropped = ("EVENTSCHED_URL", "EVENTSCHED_DATA", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in dropped}
