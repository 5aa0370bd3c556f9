"""Writes what documents take from the code: `python -m tools.pages`.

Owns: docs/settings.md, from the descriptions of the settings; the column of tests in docs/rules.md,
from the names of the tests. `tests/docs/test_pages.py` holds both files to it.
Never does: read anything but the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tools.settings_page import settings_page

ROOT = Path(__file__).parents[1]
RULES, SETTINGS = ROOT / "docs/rules.md", ROOT / "docs/settings.md"
RULE = re.compile(
    r"^\| (?P<number>\d+) \| (?P<name>[^|]+) \| (?P<text>[^|]+) \| (?P<code>[^|]+) \|.*\|$",
    re.MULTILINE,
)
TEST = re.compile(r"def test_rule_(\d+)(?:_and_(\d+))?_")
FILES_MAX = 4


def files_by_rule() -> dict[int, dict[str, int]]:
    """Rule -> file of tests -> how many tests of the rule the file has."""
    found: dict[int, dict[str, int]] = {}
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        file = path.relative_to(ROOT).as_posix()
        for numbers in TEST.findall(path.read_text(encoding="utf-8")):
            for number in (int(one) for one in numbers if one):
                files = found.setdefault(number, {})
                files[file] = files.get(file, 0) + 1
    return found


def tests_cell(files: dict[str, int]) -> str:
    """The files with the most tests of a rule, and how many more there are."""
    most = sorted(files, key=lambda file: (-files[file], file))
    named = ", ".join(f"`{file}`" for file in most[:FILES_MAX])
    more = len(most) - FILES_MAX
    return f"{named} and {more} more" if more > 0 else named


def rules_page(text: str) -> str:
    """docs/rules.md with the column of tests as it should be."""
    found = files_by_rule()

    def row(match: re.Match[str]) -> str:
        cells = [match[part] for part in ("number", "name", "text", "code")]
        return f"| {' | '.join([*cells, tests_cell(found.get(int(match['number']), {}))])} |"

    return RULE.sub(row, text)


def pages() -> Iterator[tuple[Path, str]]:
    """Each file that is written here, with its text as it should be."""
    yield RULES, rules_page(RULES.read_text(encoding="utf-8"))
    yield SETTINGS, settings_page()


def main() -> None:
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
