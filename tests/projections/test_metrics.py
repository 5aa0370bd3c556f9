"""The projection `metrics`: what each event counts, and the bound on label values."""

from __future__ import annotations

import random

import msgspec

from eventsched.schema.events import (
    AnyData,
    AttemptEnded,
    ClassSeen,
    Delivered,
    Event,
    JobDispatched,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    SessionClosing,
    SessionOpened,
    UtteranceFinalized,
)
from projections.metrics import CLASSES_MAX, RECORD, Metrics
from tests.projections.folded_log import FoldedLog


def dispatched(cls: str, attempt: int = 1) -> JobDispatched:
    return JobDispatched(
        utterance=0, target="es", delivery_no=0, turn=0, source="en", attempt=attempt, epoch=1,
        audio_ms=100, deadline_ms=9, rule="load", policy=1, classes=[ClassSeen(id=cls)],
    )  # fmt: skip


def finalized(ms: int, size: int, count: int) -> UtteranceFinalized:
    return UtteranceFinalized(
        utterance=0, turn=0, reason="pause", first="1-0", last="2-0", first_seq=0, count=count,
        bytes=size, ms=ms,
    )  # fmt: skip


def counters(log: FoldedLog) -> dict[str, int]:
    record = log.views[RECORD]
    return dict(record.counters)


def test_each_event_counts_at_its_labels() -> None:
    log = FoldedLog(Metrics())
    log.at(1, SessionOpened(tenant="acme", source="en"))
    log.at(2, finalized(400, 12_800, 4)).at(3, finalized(600, 19_200, 6))
    log.at(4, dispatched("a")).at(5, dispatched("a")).at(6, dispatched("a", attempt=7))
    log.at(7, AttemptEnded(utterance=0, target="es", attempt=1, epoch=1, reason="lease"))
    delivery = {"utterance": 0, "target": "es", "delivery_no": 0}
    log.at(8, ResultRecorded(**delivery, attempt=1, epoch=1, status="ok"))  # type: ignore[arg-type]
    delivered = ResultRecorded(**delivery, attempt=1, epoch=1, status="no_speech",  # type: ignore[arg-type]
                               delivered=Delivered(to=["c0.s1"]))  # fmt: skip
    log.at(9, delivered)
    log.at(10, ResultDelivered(**delivery, outcome="result"))  # type: ignore[arg-type]
    log.at(11, ResultMissing(**delivery, reason="gap"))  # type: ignore[arg-type]
    log.at(12, SessionClosing(reason="idle"))
    assert counters(log) == {
        "sessions_opened": 1,
        "sessions_closed|idle": 1,
        "utterances_finalized|pause": 2,
        "chunks_appended": 10,
        "bytes_appended": 32_000,
        "audio_ms": 1_000,
        "jobs_dispatched|a|load|1": 2,
        "jobs_dispatched|a|load|3": 1,
        "attempts_ended|lease": 1,
        "results_recorded|result": 1,
        "results_recorded|no_speech": 1,
        "deliveries|result": 1,
        "deliveries|no_speech": 1,
        "deliveries|missing": 1,
        "finalize_to_delivery_bucket|no_speech|1": 1,
        "finalize_to_delivery_sum_ms|no_speech": 0,
        "finalize_to_delivery_bucket|result|1": 1,
        "finalize_to_delivery_sum_ms|result": 0,
    }


def times(log: FoldedLog) -> dict[str, int]:
    return {name: value for name, value in counters(log).items() if "_bucket|" in name
            or "_sum_ms" in name}  # fmt: skip


def test_a_dispatch_is_timed_from_its_cause_or_by_its_age() -> None:
    fill = {"rule": "fill", "age_ms": 700, "waited_ms": 690}
    log = FoldedLog(Metrics())
    log.at(1_040, dispatched("a"), cause="log/1000-0")
    log.at(2_000, msgspec.structs.replace(dispatched("a"), **fill), cause="log/1990-0")
    log.at(3_000, dispatched("a", attempt=2), cause="log/1000-0")
    log.at(4_000, msgspec.structs.replace(dispatched("a", attempt=2), **fill))
    log.at(5_000, dispatched("a"), cause="dispatch/x").at(5_001, dispatched("a"))
    assert times(log) == {
        "finalize_to_dispatch_bucket|50": 1,
        "finalize_to_dispatch_bucket|1000": 1,
        "finalize_to_dispatch_sum_ms": 740,
        "queue_wait_bucket|1000": 2,
        "queue_wait_sum_ms": 1_380,
    }


def test_a_time_is_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    log = FoldedLog(Metrics())
    for ms in (-5, 0, 1, 2, 3, 60_000, 60_001):
        log.at(1, ResultDelivered(utterance=0, target="es", delivery_no=0, outcome="failed",
                                  age_ms=ms))  # fmt: skip
    found = {name.rpartition("|")[2]: value for name, value in times(log).items()}
    assert found == {"1": 3, "2": 1, "5": 1, "60000": 1, "+Inf": 1, "failed": 120_007}


def test_an_event_writes_only_the_counters_that_it_changes() -> None:
    log = FoldedLog(Metrics()).at(1, dispatched("a")).at(2, dispatched("b"))
    log.at(3, SessionOpened(tenant="acme", source="en"))
    assert log.written.keys() == {"v", "sessions_opened"}


def test_sessions_and_tenants_add_no_counter() -> None:
    """10,000 sessions of 1,000 tenants, on 200 classes of nodes, some of which fail."""
    metrics, draw = Metrics(), random.Random(1)
    view = metrics.initial()
    for number in range(10_000):
        session, tenant = f"c0.s{number}", f"tenant{number % 1_000}"
        job = f"{tenant}:{session}:0:translation:es:none"
        late = {"age_ms": draw.randrange(100_000), "waited_ms": draw.randrange(20_000)}
        place = {"utterance": 0, "target": "es", "delivery_no": 0}
        cls = f"class{draw.randrange(200)}"
        fill = msgspec.structs.replace(dispatched(cls, number % 5), rule="fill", **late)
        datas: list[AnyData] = [
            SessionOpened(tenant=tenant, source="en"),
            finalized(draw.randrange(10_000), 3_200, 4),
            dispatched(cls, 1),
            fill,
            AttemptEnded(utterance=0, target="es", attempt=1, epoch=1, reason="failed",
                         code=f"CODE_{number}", error_type=f"Error{number}"),
            ResultDelivered(**place, outcome="failed", code=f"CODE_{number}",  # type: ignore[arg-type]
                            age_ms=late["age_ms"]),
            SessionClosing(reason="idle"),
        ]  # fmt: skip
        for data in datas:
            cause = f"log/{number}-0"
            event = Event(id=f"{number + draw.randrange(9)}-1", type=type(data).__name__,
                          session=session, job=job, cause=cause, data=data)  # fmt: skip
            view = metrics.apply(view, event)
    assert len(view.counters) < 400
    assert not [name for name in view.counters if "tenant" in name or "c0." in name]


def test_classes_beyond_the_bound_count_as_other() -> None:
    log = FoldedLog(Metrics())
    for number in range(CLASSES_MAX + 10):
        log.at(number, dispatched(f"class{number}"))
    log.at(1_000, dispatched("class0"))
    found = counters(log)
    assert len(found) == CLASSES_MAX + 1
    assert found["jobs_dispatched|other|load|1"] == 10
    assert found["jobs_dispatched|class0|load|1"] == 2
