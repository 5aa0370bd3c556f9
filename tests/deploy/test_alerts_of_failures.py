"""Each alert fires for the metrics of a cell in which its failure has happened.

A failure is played on a real cell with a manual clock. What a gateway shows before and after it is
the input of promtool: gauges stay, counters go on as they did during the failure.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from eventsched.errors import Refused
from eventsched.instruments import instruments
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.backpressure import BackpressureMonitor
from eventsched.roles.projector import Projector
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from eventsched.store.node_commands import NodeGrant
from eventsched.store.role_commands import RolePresence
from eventsched.store.transport import RedisTransport
from eventsched.telemetry.cell_metrics import cell_metrics
from eventsched.telemetry.process_metrics import ProcessMetrics
from tests.archive.archives import Archived
from tests.deploy.files import DEPLOY, alerts
from tests.deploy.test_prometheus import promtool
from tests.fixtures_store import TimedStore

pytestmark = pytest.mark.prometheus
STEP_S, BEFORE, AFTER = 15, 40, 80
"""Time between two samples; numbers of samples before and after the failure."""
Counted: TypeAlias = "tuple[str, frozenset[tuple[str, str]]]"


class Stage:
    """A cell, its projector and its archive, and what a scrape of it shows."""

    def __init__(self, store: TimedStore, client: Client, folder: Path) -> None:
        self.store = store
        self.transport = RedisTransport(client, client)
        self.client = client
        self.archived = Archived(store, folder / "archive")
        self.process = ProcessMetrics()
        self._projector = Projector(ProjectionStore(store.transport, store.cell), load_core())

    async def fold(self) -> None:
        while (await self._projector.step()).state in ("folded", "moved"):
            pass

    async def wait(self, ms: int) -> None:
        """The time passes, and nothing happens."""
        self.store.tick(ms)
        await self.store.renew_presence("other", 0, [])

    async def run_roles(self) -> None:
        """All roles have just been seen."""
        names = (("dispatcher", ""), ("timer", ""), ("projector", "core"))
        roles = [RolePresence(name, subject, "running") for name, subject in names]
        await self.store.renew_presence("process", 0, roles)

    async def speak(self, number: int = 0, **given: Any) -> None:
        """One utterance of a new session, dispatched or queued."""
        session = await self.store.open(f"s{number}", **given)
        await self.store.say(session, 0, end_of_utterance=True)
        await self.store.dispatch()

    async def assigned(self, node: NodeGrant) -> list[dict[str, Any]]:
        return [each for each in await self.store.inbox(node) if each["t"] == "assign"]

    async def scrape(self) -> dict[Counted, tuple[float, str]]:
        """Value and kind of each sample."""
        connection = Connection(
            "", await check_server(self.client), self.transport,
            {self.store.cell: self.store},
        )  # fmt: skip
        text = (await cell_metrics(connection) + self.process.text()).decode()
        return {
            (sample.name, frozenset(sample.labels.items())): (sample.value, family.type)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("eventsched_") and not _is_created(sample)
        }


def _is_created(sample: Sample) -> bool:
    return sample.name.endswith("_created")


# --- the failures ---------------------------------------------------------------------------------


async def no_role_runs(stage: Stage) -> AsyncIterator[None]:
    await stage.run_roles()
    yield
    await stage.wait(20_000)


async def no_projector_folds(stage: Stage) -> AsyncIterator[None]:
    await stage.speak()
    await stage.fold()
    yield
    await stage.speak(1)
    await stage.wait(60_000)


async def no_archiver_seals(stage: Stage) -> AsyncIterator[None]:
    await stage.speak()
    await stage.archived.seal()
    yield
    await stage.speak(1)
    await stage.wait(700_000)


async def the_owner_of_a_set_is_gone(stage: Stage) -> AsyncIterator[None]:
    await stage.fold()
    yield
    await stage.wait(5_000)


async def an_entry_cannot_be_processed(stage: Stage) -> AsyncIterator[None]:
    yield
    dispatch = stage.store.keys.dispatch
    call = ("XADD", dispatch, "*", "k", "utterance", "d", "garbage")
    await stage.store.transport.command(*call, key=dispatch)
    await stage.store.dispatch()


async def the_views_are_far_behind(stage: Stage) -> AsyncIterator[None]:
    await stage.store.configure_cell({"projection_lag_max": 3}, overwrite=True)
    await stage.fold()
    yield
    await stage.speak()
    await BackpressureMonitor(stage.store).step()


async def a_tenant_waits_too_much(stage: Stage) -> AsyncIterator[None]:
    await stage.store.configure_cell({"tenant_queue_max": 1}, overwrite=True)
    yield
    await stage.speak()


async def no_node_serves_the_languages(stage: Stage) -> AsyncIterator[None]:
    await stage.store.join(targets=["fr"])
    yield
    await stage.speak()


async def all_nodes_are_busy(stage: Stage) -> AsyncIterator[None]:
    await stage.store.join(slots=1)
    await stage.speak()
    yield
    await stage.speak(1)
    await stage.wait(6_000)


async def jobs_fail(stage: Stage) -> AsyncIterator[None]:
    node = await stage.store.join()
    await stage.speak()
    await stage.store.answer(node, (await stage.assigned(node))[-1])
    await stage.fold()
    yield
    await stage.speak(1)
    message = (await stage.assigned(node))[-1]
    await stage.store.answer(node, message, status="failed", code="BAD_AUDIO", body=b"")
    await stage.fold()


async def handlers_outrun_their_leases(stage: Stage) -> AsyncIterator[None]:
    node = await stage.store.join()
    await stage.speak()
    await stage.fold()
    yield
    await _run_out_of_lease(stage, node)
    await stage.fold()


async def results_come_too_late(stage: Stage) -> AsyncIterator[None]:
    node = await stage.store.join()
    await stage.speak()
    await stage.speak(1)
    await stage.fold()
    yield
    late = (await stage.assigned(node))[:2]
    await _run_out_of_lease(stage, node)
    for message in late:
        with pytest.raises(Refused):
            await stage.store.answer(node, message)
    await stage.fold()


async def _run_out_of_lease(stage: Stage, node: NodeGrant) -> None:
    """The node lives, and its handlers do not end."""
    for _ in range(4):
        stage.store.tick(10_000)
        await stage.store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await stage.store.timers()


async def results_are_slow(stage: Stage) -> AsyncIterator[None]:
    node = await stage.store.join()
    await stage.fold()
    yield
    await stage.speak()
    stage.store.tick(9_000)
    await stage.store.answer(node, (await stage.assigned(node))[-1])
    await stage.fold()


async def a_timer_has_no_effect(stage: Stage) -> AsyncIterator[None]:
    await stage.store.configure_cell({"cache_live_state": 0}, overwrite=True)
    session = await stage.store.open()
    await stage.store.say(session, 0)
    yield
    key = stage.store.keys.session("s1")
    await stage.store.transport.command("HSET", key, "buffer", "garbage", key=key)
    stage.store.tick(5_000)
    await stage.store.timers()


async def the_server_stalls(stage: Stage) -> AsyncIterator[None]:
    yield
    instruments.observer = stage.process
    await stage.client.client_pause(150)
    await stage.store.renew_presence("other", 0, [])
    instruments.observer = None


Play: TypeAlias = "Callable[[Stage], AsyncIterator[None]]"
PLAYS: dict[str, Play] = {
    "EventschedRoleDown": no_role_runs,
    "EventschedGroupLag": no_projector_folds,
    "EventschedArchiveLag": no_archiver_seals,
    "EventschedLeaseWithoutOwner": the_owner_of_a_set_is_gone,
    "EventschedDeadLetters": an_entry_cannot_be_processed,
    "EventschedBackpressure": the_views_are_far_behind,
    "EventschedTenantRefused": a_tenant_waits_too_much,
    "EventschedNoNodeForLanguages": no_node_serves_the_languages,
    "EventschedJobsWaitLong": all_nodes_are_busy,
    "EventschedOutcomesFail": jobs_fail,
    "EventschedDeliverySlow": results_are_slow,
    "EventschedAttemptsFail": handlers_outrun_their_leases,
    "EventschedResultsRefused": results_come_too_late,
    "EventschedTimersStalled": a_timer_has_no_effect,
    "EventschedScriptsSlow": the_server_stalls,
}
BY_PROMETHEUS = {"EventschedTargetDown"}
"""Of a metric that Prometheus makes itself: rules_test.yml plays it."""


def test_each_alert_has_a_failure() -> None:
    assert {*PLAYS, *BY_PROMETHEUS} == {each["alert"] for each in alerts()}


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("alert", PLAYS)
async def test_an_alert_fires_for_its_failure_and_not_before(
    alert: str, store: TimedStore, redis: Client, programs: Path, tmp_path: Path
) -> None:
    stage = Stage(store, redis, tmp_path)
    play = PLAYS[alert](stage)
    await anext(play)
    before = await stage.scrape()
    assert [each async for each in play] == []
    after = await stage.scrape()
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(_rules_test(alert, before, after)))
    promtool(programs, "test", "rules", str(file))


def _rules_test(
    alert: str, before: dict[Counted, tuple[float, str]], after: dict[Counted, tuple[float, str]]
) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0 or vector(0)'
    times = ((BEFORE * STEP_S, 0), ((BEFORE + AFTER) * STEP_S, 1))
    return {
        "rule_files": [str(DEPLOY / "prometheus/rules.yml")],
        "evaluation_interval": f"{STEP_S}s",
        "tests": [
            {
                "interval": f"{STEP_S}s",
                "input_series": [
                    {"series": _series(key), "values": _values(before.get(key), after.get(key))}
                    for key in sorted(before.keys() | after.keys(), key=str)
                ],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": f"{at_s}s",
                     "exp_samples": [{"labels": "{}", "value": value}]}
                    for at_s, value in times
                ],
            }
        ],
    }  # fmt: skip


def _series(key: Counted) -> str:
    name, labels = key
    listed = ",".join(f"{label}={json.dumps(value)}" for label, value in sorted(labels))
    return f"{name}{{{listed}}}"


def _values(before: tuple[float, str] | None, after: tuple[float, str] | None) -> str:
    """A gauge stays; a counter goes on by what the failure has added to it."""
    earlier = "_" if before is None else f"{before[0]:g}"
    if after is None:
        return f"{earlier}x{BEFORE} _x{AFTER}"
    if after[1] == "gauge":
        return f"{earlier}x{BEFORE} {after[0]:g}x{AFTER}"
    started = before[0] if before is not None else 0.0
    return f"{started:g}x{BEFORE} {after[0]:g}+{after[0] - started:g}x{AFTER}"
