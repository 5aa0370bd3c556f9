"""Write the generated parts of the documents: `python -m tools.pages`.

Owns: docs/settings.md, from the descriptions of the settings; the column of tests in docs/rules.md,
from the names of the tests; the access list `minimal` in docs/operations.md, from the functions;
the frames in docs/protocol.md and their JSON Schema; the access table in docs/gateway.md, and the
routes as docs/openapi.json; docs/metrics.md, from the catalog of metrics; the dashboards in
deploy/grafana; the words in docs/reading-why.md.
`tests/docs/test_pages.py` fails if one of them is out of date.
Never does: read files outside the repository. Read next: settings_page.py, protocol_page.py,
reading_page.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from eventsched.gateway.openapi import document
from eventsched.gateway.routes import ROUTES
from eventsched.schema.keys import LAYOUT
from eventsched.store.needed_commands import all_commands
from tools.dashboards import dashboards
from tools.metrics_page import metrics_page
from tools.protocol_page import gateway_page, protocol_page, schema
from tools.reading_page import reading_page
from tools.settings_page import settings_page

ROOT = Path(__file__).parents[1]
RULES, SETTINGS = ROOT / "docs/rules.md", ROOT / "docs/settings.md"
METRICS = ROOT / "docs/metrics.md"
OPERATIONS = ROOT / "docs/operations.md"
READING = ROOT / "docs/reading-why.md"
PROTOCOL, GATEWAY = ROOT / "docs/protocol.md", ROOT / "docs/gateway.md"
SCHEMA = ROOT / "docs/protocol.schema.json"
OPENAPI = ROOT / "docs/openapi.json"
GRAFANA = ROOT / "deploy/grafana"
MINIMAL = re.compile(r"^(ACL SETUSER minimal +).*$", re.MULTILINE)
GRANTS = (
    "asking",
    "auth",
    "command",
    "hello",
    "ping",
    "select",
    "client|setname",
    "acl|whoami",
    "acl|dryrun",
    "cluster|slots",
    "cluster|shards",
    "cluster|info",
)
"""What a user needs beside the commands of calls: to connect and to ask about its access list."""
RULE = re.compile(
    r"^\| (?P<number>\d+) \| (?P<name>[^|]+) \| (?P<text>[^|]+) \| (?P<code>[^|]+) \|.*\|$",
    re.MULTILINE,
)
TEST = re.compile(r"def test_rule_(\d+)(?:_and_(\d+))?_")
FILES_MAX = 4


def files_by_rule() -> dict[int, dict[str, int]]:
    """Return rule -> test file -> number of its tests for the rule."""
    by_rule: dict[int, dict[str, int]] = {}
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        file = path.relative_to(ROOT).as_posix()
        for numbers in TEST.findall(path.read_text(encoding="utf-8")):
            for number in (int(digits) for digits in numbers if digits):
                files = by_rule.setdefault(number, {})
                files[file] = files.get(file, 0) + 1
    return by_rule


def tests_cell(files: dict[str, int]) -> str:
    """Return the files with the most tests of a rule, and the number of the other files."""
    ordered = sorted(files, key=lambda file: (-files[file], file))
    names = ", ".join(f"`{file}`" for file in ordered[:FILES_MAX])
    more = len(ordered) - FILES_MAX
    return f"{names} and {more} more" if more > 0 else names


def rules_page(text: str) -> str:
    """Return the text of docs/rules.md with the current column of tests."""
    by_rule = files_by_rule()

    def row(match: re.Match[str]) -> str:
        cells = [match[part] for part in ("number", "name", "text", "code")]
        return f"| {' | '.join([*cells, tests_cell(by_rule.get(int(match['number']), {}))])} |"

    return RULE.sub(row, text)


def operations_page(text: str) -> str:
    """Return the text of docs/operations.md with the current commands of the user `minimal`."""
    commands = set(all_commands()) - {"FUNCTION|LOAD"}  # for the user `deploy` alone
    grants = " ".join(f"+{name}" for name in (*GRANTS, *map(str.lower, sorted(commands))))
    return MINIMAL.sub(rf"\1on >PASSWORD ~{LAYOUT}:* resetchannels {grants}", text)


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each generated file with its current text."""
    yield RULES, rules_page(RULES.read_text(encoding="utf-8"))
    yield SETTINGS, settings_page()
    yield METRICS, metrics_page()
    for name, text in dashboards():
        yield GRAFANA / f"{name}.json", text
    yield OPERATIONS, operations_page(OPERATIONS.read_text(encoding="utf-8"))
    yield PROTOCOL, protocol_page(PROTOCOL.read_text(encoding="utf-8"))
    yield GATEWAY, gateway_page(GATEWAY.read_text(encoding="utf-8"))
    yield READING, reading_page()
    yield SCHEMA, _json(schema())
    yield OPENAPI, _json(document(ROUTES))


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n"


def main() -> None:
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
