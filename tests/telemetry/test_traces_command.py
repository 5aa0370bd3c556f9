"""`--otlp`: `up` and `run traces` export traces."""

from __future__ import annotations

from pathlib import Path

from eventsched.server.testing import wait_for
from tests.cli.programs import json_of, program, run, write_wav
from tests.telemetry.collectors import http_collector


def test_the_command_exports_traces_and_shows_the_role(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        http_collector() as collector,
        # In new interpreters: gRPC, which other tests have started, does not outlive a fork.
        program(data, "up", "--no-gateway", "--otlp", collector.url, env={}) as up,
    ):
        assert "traces" in up.first_line()
        with program(data, "node", "eventsched.examples.echo_node:node", env={}) as node:
            node.wait_for_log("serving")
            file = write_wav(tmp_path / "a.wav", 1_000)
            stream = ("stream", str(file), "--source", "en", "--target", "es")
            spoken = run(data, *stream, env={"PYTHONUTF8": "1"})
            assert spoken.returncode == 0, spoken.stderr
        wait_for("deliver", lambda: bool(collector.named("deliver")))
        roles = json_of(run(data, "status", "--json"))["cells"][0]["roles"]
        assert [each["running"] for each in roles if each["role"] == "traces"] == [1]
    for words in ((), ("--otlp", "ftp://x")):
        refused = run(data, "run", "traces", *words)
        assert refused.returncode == 1
        assert b"--otlp" in refused.stderr
