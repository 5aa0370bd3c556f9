"""Writes a report as one HTML page that loads nothing: the style, the picture and proofs are in it.

Owns: the parts of the page, its words for readers who are not programmers, and its style.
Must not: read the history. Every text is escaped: it may be of any producer, node or archive.
Read next: content.py, timeline/render.py (the picture), audit/meanings.py (the words).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from eventsched.audit.explain import Decision, JobExplanation
from eventsched.audit.explanation_text import choice_text, evidence_lines
from eventsched.audit.meanings import CODES, FIELDS, STAGES, TERMS, VERDICTS, event_meanings
from eventsched.escaping import escape_line
from eventsched.formatting import clock, day_and_clock, duration, plural
from eventsched.history.event_text import describe
from eventsched.projection.fold import FailedEvent
from eventsched.report.content import Proofs, SessionReport, Spoken
from eventsched.schema.events import Event
from eventsched.schema.ids import ms_of
from eventsched.timeline.render import LEGEND, draw_element

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page runs no program and loads nothing."""
STYLE = """
body{font:15px/1.45 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;color:#24292f;
margin:2rem auto;max-width:1032px;padding:0 1rem}
h1{font-size:1.5rem;overflow-wrap:anywhere}
h2{margin-top:2.2rem;border-bottom:1px solid #d8dee4}h3{margin:1.4rem 0 .3rem}
table{border-collapse:collapse;width:100%}
th{text-align:left;font-weight:600;color:#57606a}
td,th{padding:.2rem .8rem .2rem 0;vertical-align:top;border-bottom:1px solid #eef1f4}
.time,.id{white-space:nowrap;color:#57606a}.id{font-size:.85em}.wrong{color:#c4252f;font-weight:600}.note{color:#57606a}
code,pre{background:#f6f8fa;border-radius:4px}
code{padding:.1rem .3rem}pre{padding:.7rem;overflow:auto}
.picture{overflow-x:auto}ul{margin:.2rem 0}
@media(max-width:700px){.scroll{overflow-x:auto}.scroll td,.scroll th{min-width:3.5rem}}
@media print{h2,h3{break-after:avoid}tr{break-inside:avoid}}
"""
NODES_MAX = 20
"""Nodes of one decision."""
_NOT_HTML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_page(report: SessionReport) -> str:
    """Return the page."""
    page = Element("html", {"lang": "en"})
    head = SubElement(page, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    _add(head, "title", f"Session {report.session}")
    SubElement(head, "style").text = STYLE
    body = SubElement(page, "body")
    _summary(body, report)
    _picture(body, report)
    _what_was_said(body, report.spoken)
    _events(body, report)
    _reasons(body, report)
    _proofs(body, report)
    _words(body)
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


# --- parts ----------------------------------------------------------------------------------


def _summary(body: Element, report: SessionReport) -> None:
    _add(body, "h1", f"Session {report.session}")
    first, last = report.events[0].id, report.events[-1].id
    rows = [("from", day_and_clock(ms_of(first))), ("to", day_and_clock(ms_of(last)))]
    opened = report.opened
    if opened is not None:
        rows += [
            ("customer (tenant)", opened.tenant),
            ("spoken language", opened.source),
            ("target languages", ", ".join(opened.targets) or "none of its own"),
        ]
        rows += [("room", opened.room)] if opened.room else []
        rows += [("encrypted with key", opened.key)] if opened.key else []
    outcomes = [each.outcome for each in report.spoken]
    counts = [
        plural(outcomes.count(outcome), outcome.replace("_", " "), outcome.replace("_", " "))
        for outcome in FIELDS["ResultDelivered.outcome"]
        if outcomes.count(outcome)
    ]
    counts += [f"{outcomes.count('')} open"] if "" in outcomes else []
    rows.append(("outcomes", ", ".join(counts) or "none"))
    rows.append(("events", f"{report.events_total:,}"))
    _table(body, (), rows)
    if report.events_total > len(report.events):
        _note(body, f"This page shows the first {len(report.events):,} events.")


def _picture(body: Element, report: SessionReport) -> None:
    _add(body, "h2", "Picture")
    frame = SubElement(body, "div", {"class": "picture"})
    frame.append(draw_element([each for each in report.events if isinstance(each, Event)]))
    _note(body, "Time runs from left to right. Rest the pointer on a shape to read what it is.")


def _what_was_said(body: Element, spoken: Sequence[Spoken]) -> None:
    _add(body, "h2", "What was said")
    if not spoken:
        _note(body, "No piece of speech was complete.")
        return
    rows = [
        (clock(each.at_ms), f"u{each.utterance}", each.target, *_texts(each)) for each in spoken
    ]
    _table(body, ("time", "piece", "to", "recognised", "result"), rows)


def _texts(each: Spoken) -> tuple[str, str]:
    """What was recognised, and the translation or why there is none."""
    outcome = f"{each.outcome or 'open'} {each.code}".rstrip()
    if each.text is None:
        return "", f"({outcome})"
    if each.text.encrypted:
        return "", f"(encrypted, {plural(each.text.characters, 'character')}; {outcome})"
    result = each.text.text if each.text.text is not None else f"({outcome})"
    if each.outcome not in ("result", ""):
        result = f"{result} ({outcome})" if each.text.text else f"({outcome})"
    return each.text.source_text, result


def _events(body: Element, report: SessionReport) -> None:
    _add(body, "h2", "Events")
    _note(body, "Every change of the session, in order. An event is never changed afterwards.")
    rows = []
    for each in report.events:
        time = day_and_clock(ms_of(each.id))
        if isinstance(each, FailedEvent):
            rows.append((time, "unreadable", each.reason, each.id))
        else:
            rows.append((time, each.type, describe(each), each.id))
    _table(body, ("time", "event", "what happened", "id"), rows)


def _reasons(body: Element, report: SessionReport) -> None:
    _add(body, "h2", "Reasons")
    _note(body, "For each piece and language: which node got the job, why, and how long it took.")
    for explanation in report.explanations:
        _job(body, explanation)
    left_out = report.jobs_total - len(report.explanations)
    if left_out:
        _note(body, f"{plural(left_out, 'job')} more; `eventsched why JOB` explains each.")


def _job(body: Element, job: JobExplanation) -> None:
    outcome = " ".join(filter(None, (job.outcome or "not ended", job.code)))
    attempts = plural(job.attempts, "attempt")
    _add(body, "h3", f"u{job.utterance} → {job.target}: {outcome} after {attempts}")
    rows = [
        (
            clock(stage.from_ms),
            duration(stage.ms) + (" so far" if stage.is_open else ""),
            stage.name,
            stage.waited_for,
        )
        for stage in job.stages
    ]
    _table(body, ("start", "duration", "stage", "waited for, or ended by"), rows)
    for decision in job.decisions:
        _decision(body, decision)


def _decision(body: Element, decision: Decision) -> None:
    time = clock(ms_of(decision.id))
    _add(body, "p", f"{time}, attempt {decision.attempt}: {choice_text(decision)}")
    lines = evidence_lines(decision)
    for node in decision.nodes[:NODES_MAX]:
        slots = f"{node.live} of {plural(node.slots, 'slot')} in use"
        detail = f" ({node.detail})" if node.detail else ""
        lines.append(f"{node.node}: {node.verdict}{detail}, {slots}")
    if len(decision.nodes) > NODES_MAX:
        lines.append(f"and {plural(len(decision.nodes) - NODES_MAX, 'more node')}")
    if lines:
        list_ = SubElement(body, "ul")
        for line in lines:
            _add(list_, "li", line)


def _proofs(body: Element, report: SessionReport) -> None:
    _add(body, "h2", "Proofs")
    proofs = report.proofs
    if proofs is None or not proofs.count:
        why = "it was made without an archive"
        if proofs is not None:
            why = "none of its events is archived yet"
        _note(body, f"This report proves nothing: {why}. Make it again with --archive DIR.")
        return
    _add(
        body,
        "p",
        f"The archive has sealed {proofs.count:,} of these {plural(len(report.events), 'event')}. "
        "A proof shows, without the archive and without a server, that the owner of the archive's "
        "key has signed a history that has exactly this event.",
    )
    list_ = SubElement(body, "ol")
    _save(list_, "Save the proofs", "proofs.jsonl", proofs.lines)
    _save(list_, "Save the public key of the archive", "archive.pub", proofs.public)
    item = _add(list_, "li", "Check every proof; the output repeats what each event says:")
    _add(item, "pre", "eventsched audit check-proof proofs.jsonl --key archive.pub")
    _note(
        body,
        "A key in this page proves nothing by itself, because the maker of a page can choose it. "
        f"Ask the operator of the archive for the key, or compare its fingerprint: {proofs.key}. "
        "Compare the events above with the output of the command: the page is not signed.",
    )
    if proofs.count < len(report.events):
        _note(body, _unproven(report, proofs))


def _unproven(report: SessionReport, proofs: Proofs) -> str:
    left = len(report.events) - proofs.count
    return f"{plural(left, 'event is', 'events are')} not archived yet, and not proven."


def _save(parent: Element, words: str, name: str, content: bytes) -> None:
    """Add a link that saves a file which is in the page."""
    item = SubElement(parent, "li")
    data = f"data:application/octet-stream;base64,{b64encode(content).decode()}"
    link = _add(item, "a", f"{words} ({name})", {"download": name, "href": data})
    link.tail = f", {len(content):,} bytes"


def _words(body: Element) -> None:
    _add(body, "h2", "Words")
    _note(body, "What the words and codes of this page mean.")
    _word_table(body, "In all parts", TERMS.items())
    _word_table(body, "Shapes of the picture", ((each.words, each.meaning) for each in LEGEND))
    _word_table(body, "Events", event_meanings().items())
    for field, words in FIELDS.items():
        kind, _, name = field.partition(".")
        _word_table(body, f"{kind}: {name}", words.items())
    _word_table(body, "Codes", CODES.items())
    _word_table(body, "Nodes at a decision", VERDICTS.items())
    _word_table(body, "Stages of a job", STAGES.items())


def _word_table(body: Element, title: str, rows: Iterable[tuple[str, str]]) -> None:
    _add(body, "h3", title)
    _table(body, (), rows)


# --- elements -------------------------------------------------------------------------------


def _add(
    parent: Element, name: str, text: str, attributes: dict[str, str] | None = None
) -> Element:
    element = SubElement(parent, name, attributes or {})
    element.text = _printable(text)
    return element


def _note(body: Element, text: str) -> None:
    _add(body, "p", text, {"class": "note"})


def _table(body: Element, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Add a table; the first column of one with headings is a time. It scrolls on a narrow page."""
    kinds = {0: {"class": "time"}} if headings else {}
    kinds |= {at: {"class": "id"} for at, heading in enumerate(headings) if heading == "id"}
    table = SubElement(SubElement(body, "div", {"class": "scroll"}), "table")
    if headings:
        row = SubElement(table, "tr")
        for heading in headings:
            _add(row, "th", heading)
    for cells in rows:
        row = SubElement(table, "tr")
        for at, text in enumerate(cells):
            _add(row, "td", text, kinds.get(at, {}))


def _printable(text: str) -> str:
    """Return the text without characters that HTML cannot contain or that reorder it."""
    return _NOT_HTML.sub("\ufffd", escape_line(text))
