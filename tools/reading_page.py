"""The text of docs/reading-why.md, generated from the meanings of words.

Owns: the page. Words and meanings are those of reports and pictures, so they are written once.
Never does: write files. Read next: pages.py, eventsched/audit/meanings.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventsched.audit.meanings import CODES, FIELDS, STAGES, TERMS, VERDICTS, event_meanings
from eventsched.timeline.render import LEGEND

HEAD = """\
# How to read `why`

Written by `python -m tools.pages`; do not edit by hand. The source is
`eventsched/audit/meanings.py`.

`eventsched history SESSION` says what happened, `eventsched why JOB` why a job went to its node and
what took how long, `--svg` and `eventsched report` draw it. This page explains every word and code
in their output. It needs no knowledge of programming; the terms of the system are in the
[glossary](glossary.md).

```
$ eventsched why c0.2d6f0a4e8f7b4c55a1b7:6:es
acme:c0.2d6f0a4e8f7b4c55a1b7:6:translation:es:none
u6 → es of c0.2d6f0a4e8f7b4c55a1b7: result after 2 attempts

       START  DURATION  STAGE            WAITED FOR, OR ENDED BY
17:25:30.101    2.40 s  speech           12 chunks, 76,800 B
17:25:32.501    3.00 s  finalize         by pause
17:25:35.501      2 ms  dispatch         to c0.node-3 by turn
17:25:35.503    4.12 s  attempt 1        on c0.node-3: node_lost
17:25:39.623    210 ms  next attempt     to c0.node-1 by load
17:25:39.833    3.02 s  attempt 2        on c0.node-1: ok
17:25:42.853      0 ms  delivery         #6 in order
```

In words: the seventh piece of speech of this session (they are numbered from 0) was to become
Spanish. It took 2.4 seconds to say. After a pause of three seconds it was complete. Node 3 got it,
because it had the earlier pieces of this turn; it was lost after four seconds. Node 1, which had
the smallest share of its slots in use, returned the text three seconds later. Listeners got it at
once, because no earlier piece was missing.

Below each stage, `why` prints each choice with its evidence: the state of every node at that moment
(`chosen`, `free`, `full`, …), the classes that were compared, and why the preferred node was not
chosen.
"""


def reading_page() -> str:
    """Return the text of the page."""
    parts = [HEAD, *_table("In all output", TERMS.items())]
    parts += _table("Stages of a job", STAGES.items())
    parts += _table("Nodes at a choice", VERDICTS.items())
    for field, words in FIELDS.items():
        kind, _, name = field.partition(".")
        parts += _table(f"{kind}, `{name}`", words.items())
    parts += _table("Codes", CODES.items())
    parts += _table("Shapes of a picture", ((each.words, each.meaning) for each in LEGEND))
    parts += _table("Events", event_meanings().items())
    return "\n".join(parts) + "\n"


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| word | meaning |"
    yield "|---|---|"
    for word, meaning in rows:
        yield f"| `{_cell(word)}` | {_cell(meaning)} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
