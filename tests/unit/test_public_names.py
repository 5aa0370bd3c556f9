"""What `import eventsched` offers, and what it must not drag in."""

import subprocess
import sys

import eventsched
from tests.unit import public_api

REMEDY = "the public API changed; if that is meant: make api, and say so in CHANGELOG.md"


def test_public_names_and_signatures_are_the_recorded_ones() -> None:
    assert public_api.record() == public_api.RECORD.read_text(), REMEDY


def test_the_stub_that_type_checkers_read_has_the_same_names() -> None:
    assert public_api.stub() == public_api.STUB.read_text(), REMEDY


def test_each_public_name_has_one_home_and_can_be_imported() -> None:
    names = [name for names in eventsched._PUBLIC.values() for name in names]
    assert eventsched.__all__ == sorted(names) == sorted(set(names))
    imported: dict[str, object] = {}
    exec("from eventsched import *", imported)
    assert set(names) == imported.keys() - {"__builtins__"}


def test_importing_eventsched_loads_neither_projections_nor_what_only_files_need() -> None:
    parts = ("projections", "eventsched.client", "miniaudio", "numpy", "soxr")
    seen = f"import sys, eventsched; print(*[name in sys.modules for name in {parts}])"
    output = subprocess.run(
        [sys.executable, "-c", seen], capture_output=True, text=True, check=True, timeout=30
    )
    assert output.stdout.split() == ["False"] * len(parts)
