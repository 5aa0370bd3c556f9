"""The generated parts of the documents are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eventsched.schema.settings import Settings
from tools.pages import ROOT, RULE, RULES, files_by_rule, pages
from tools.settings_page import described

LUA = ROOT / "eventsched/lua"
NUMBERS = range(1, 35)
NAMED = re.compile(r"`([^`]+)`")


def _rows() -> list[re.Match[str]]:
    return list(RULE.finditer(RULES.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "text"), list(pages()), ids=lambda value: getattr(value, "name", "")
)
def test_a_generated_page_is_up_to_date(path: Path, text: str) -> None:
    """To update: `python -m tools.pages`."""
    assert path.read_text(encoding="utf-8") == text


def test_every_rule_has_one_row_with_a_name_of_its_own() -> None:
    assert [int(row["number"]) for row in _rows()] == list(NUMBERS)
    assert len({row["name"] for row in _rows()}) == len(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_code_of_a_rule_exists(number: int) -> None:
    named = NAMED.findall(_rows()[number - 1]["code"])
    assert named != []
    missing = [
        name for name in named if not ((ROOT / name).is_file() or (LUA / f"{name}.lua").is_file())
    ]
    assert missing == []


def test_every_rule_has_tests_and_no_test_cites_another_number() -> None:
    assert set(files_by_rule()) == set(NUMBERS)


def test_every_setting_has_a_unit_bounds_and_a_description() -> None:
    settings = list(described())
    assert [setting.name for setting in settings] == list(Settings.__struct_fields__)
    for setting in settings:
        assert setting.least <= setting.default <= setting.most, setting.name
        description = setting.description
        assert description.endswith(".") and "|" not in description, setting.name


def test_the_settings_that_rules_name_exist() -> None:
    named = set(re.findall(r"(?<!\*)\*([a-z_]+)\*(?!\*)", RULES.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert named <= set(Settings.__struct_fields__)
