"""The documentation site builds strictly, loads nothing from other hosts, and has all names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eventsched
from tools.pages import ROOT
from tools.site import undocumented

FOREIGN = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//")
FOREIGN_STYLE = re.compile(r"(?:@import\s+[\"']|url\([\"']?)(?:https?:)?//")


def _build(config: Path, into: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(into)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        line, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does."""
    into = tmp_path_factory.mktemp("site")
    done = _build(ROOT / "mkdocs.yml", into)
    assert done.returncode == 0, done.stderr
    return into


def test_no_page_loads_anything_from_other_hosts(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 25
    assert [page.name for page in pages if FOREIGN.search(page.read_text())] == []
    assert [style.name for style in styles if FOREIGN_STYLE.search(style.read_text())] == []


def test_the_reference_describes_every_public_name(site: Path) -> None:
    text = "\n".join(page.read_text() for page in site.glob("reference/*.html"))
    missing = [name for name in eventsched.__all__ if f'id="eventsched.{name}"' not in text]
    assert missing == []


def test_every_public_name_and_method_has_a_docstring() -> None:
    assert list(undocumented()) == []


def test_a_name_without_a_docstring_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventsched.Session.finalize, "__doc__", None)
    assert list(undocumented()) == ["Session.finalize"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nowhere](nowhere.md)", "nowhere.md"),
        ("[nothing](index.md#nothing)", "nothing"),
        ("[no name][eventsched.NoSuchName]", "eventsched.NoSuchName"),
    ],
    ids=["link", "anchor", "reference"],
)
def test_a_strict_build_fails_for_a_broken_link(tmp_path: Path, text: str, message: str) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text(f"# Start\n\n{text}\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nhooks: []\nnav: [index.md]\nplugins: [autorefs]\n"
    )
    done = _build(config, tmp_path / "site")
    assert done.returncode != 0
    assert message in done.stderr
