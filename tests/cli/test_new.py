"""`eventsched new projection`: its test passes, and its read model loads and folds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import eventsched
from eventsched.cli.app import main
from eventsched.projection.installed import ENTRY_POINTS, VARIABLE, load_set
from eventsched.testing import event, fold
from tests.docs.test_docs import SNIPPET
from tests.projector.test_own_set import install, site

__all__ = ["site"]
ROOT = Path(eventsched.__file__).parents[1]


def made(folder: Path, name: str) -> Path:
    assert main(["new", "projection", name, "--into", str(folder)]) == 0
    return folder / name


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(cwd), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd, env=environment, capture_output=True, check=False
    )


@pytest.mark.parametrize("name", ["billing", "words_of_day_2"])
def test_the_test_of_the_made_package_passes(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path, name)
    done = run("pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert b"1 passed" in done.stdout
    checked = run("ruff", "check", "--isolated", "--no-cache", "--select", "E,F", ".", cwd=folder)
    assert checked.returncode == 0, checked.stdout


def test_the_made_read_model_is_found_by_its_entry_point(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path, "billing")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    (name, target), *more = project["entry-points"][ENTRY_POINTS].items()
    assert (name, target, more) == ("billing", "billing:Billing", [])
    install(site, project["name"], f"{name} = {target}")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(VARIABLE, "billing")
    (projection,) = load_set("billing").projections
    from eventsched.schema.events import SessionOpened, SessionResumed

    opened = SessionOpened(tenant="acme", source="en")
    records = fold(projection, [event(opened), event(SessionResumed(epoch=2)), event(opened, ms=7)])
    assert (records["acme"].sessions, records["acme"].last_ms) == (2, 7)


@pytest.mark.parametrize(
    "name", ["", "Billing", "2nd", "core", "session", "class", "a-b", "a" * 65]
)
def test_a_name_that_no_read_model_can_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["new", "projection", name, "--into", str(tmp_path)]) == 1
    assert "cannot be a read model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "billing").mkdir()
    assert main(["new", "projection", "billing", "--into", str(tmp_path)]) == 1
    assert "exists: choose another name or folder" in capsys.readouterr().err
    assert list((tmp_path / "billing").iterdir()) == []


def test_the_files_are_named_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "new", "projection", "billing", "--into", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(printed["files"]) == sorted(
        each.name for each in (tmp_path / "billing").iterdir()
    )


def test_the_snippets_of_the_page_run() -> None:
    (snippet,) = SNIPPET.findall((ROOT / "docs" / "read-models.md").read_text())
    exec(compile(snippet, "read-models.md", "exec"), {})
