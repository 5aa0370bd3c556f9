"""Encryption and erasure from the command line, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from eventsched.encryption.keystore import Key, KeyFolder
from tests.cli.programs import json_lines_of, json_of, program, run, write_wav


class System(NamedTuple):
    """The running system, an encrypted session and a plain one."""

    data: Path
    keys: Path
    secret: str
    plain: str

    @property
    def env(self) -> dict[str, str]:
        return {"EVENTSCHED_KEYS": str(self.keys)}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("privacy")
    data, keys = folder / "data", folder / "keys"
    file = str(write_wav(folder / "a.wav", 450))
    with (
        program(data, "up", "--json", "--set", "session_retention_ms=60000000") as up,
        program(data, "node", "tests.cli.workers:echo", "--keys", str(keys)) as node,
    ):
        up.first_json()
        node.wait_for_log("serving")
        words = ("stream", file, "--source", "en", "--target", "es", "--json")
        done = [
            run(data, *words, "--encrypt", "--keys", str(keys)),
            run(data, *words),
        ]
        assert [each.returncode for each in done] == [0, 0], done
        outcomes = [{line["type"]: line for line in json_lines_of(each)} for each in done]
        assert {each["outcome"]["text"] for each in outcomes} == {f"{450 * 32 + 280 * 32} octetos"}
        assert not any(each["outcome"]["encrypted"] for each in outcomes)
        yield System(data, keys, *(each["session"]["session"] for each in outcomes))


def test_history_shows_the_length_of_encrypted_texts(system: System) -> None:
    done = run(system.data, "history", system.secret)
    history = " ".join(done.stdout.decode().split())
    assert "encrypted, 24 characters" in history
    assert "octetos" not in history
    assert "encrypted with key" in history


def test_history_shows_the_texts_with_the_key(system: System) -> None:
    history = run(system.data, "history", system.secret, env=system.env).stdout.decode()
    assert "octetos" in history
    assert "encrypted, " not in history


def test_history_takes_the_key_store_as_an_option(system: System) -> None:
    done = run(system.data, "history", system.secret, "--keys", str(system.keys), "--json")
    texts = [line["text"] for line in json_lines_of(done) if "text" in line]
    assert [text["text"] for text in texts] == [f"{450 * 32 + 280 * 32} octetos"]
    assert not any(text.get("encrypted") for text in texts)


def test_the_option_takes_precedence_over_the_environment(system: System, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir(mode=0o700)
    done = run(system.data, "history", system.secret, "--keys", str(others), env=system.env)
    assert done.returncode == 0, done.stderr
    assert "encrypted, 24 characters" in " ".join(done.stdout.decode().split())
    assert b"octetos" not in done.stdout


def test_another_session_s_key_decrypts_nothing(system: System, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir(mode=0o700)
    other = Key(bytes([7]) * 32)
    (others / f"{system.secret}.key").write_bytes(other.secret)
    done = run(system.data, "history", system.secret, "--keys", str(others), "--json")
    lines = json_lines_of(done)
    assert done.returncode == 0, done.stderr
    reasons = [line["undecodable"] for line in lines if "undecodable" in line]
    assert reasons == [f"{system.secret}: no result text 0 es {24} encrypted with key {other.id}"]
    assert "text" not in lines[-1]


@pytest.mark.parametrize(
    ("mode", "message"),
    [(None, "no key store"), (0o755, "is open to others (mode 755): chmod 700")],
)
def test_history_names_the_error_of_a_key_store(
    system: System, tmp_path: Path, mode: int | None, message: str
) -> None:
    folder = tmp_path / "unfit"
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    done = run(system.data, "history", system.secret, "--keys", str(folder))
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert message in done.stderr.decode()


def test_sessions_that_are_not_erased_are_listed_and_the_exit_code_is_1(
    system: System, tmp_path: Path
) -> None:
    store = KeyFolder(tmp_path / "other")
    anyio.run(store.put, system.secret, Key.new())
    words = ("erase", "--older-than", "0m", "--keys", str(store.path))
    done = run(system.data, *words)
    assert done.returncode == 1
    assert done.stdout.decode().startswith(f"{system.secret}: not erased: the key of ")
    assert done.stderr.decode().endswith("1 session not erased\n")
    (line,) = json_lines_of(run(system.data, *words, "--json"))
    assert (line["session"], line["outcome"]) == (system.secret, "not_erased")
    assert anyio.run(store.sessions) == [system.secret]


def test_a_session_is_erased_and_the_file_rewritten(system: System) -> None:
    done = run(system.data, "erase", system.secret, env=system.env)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.decode().splitlines()
    assert first == f"{system.secret}: erased"
    assert second.startswith("append-only file rewritten: ")
    second_run = json_lines_of(run(system.data, "erase", system.secret, "--json", env=system.env))
    assert second_run[0] == {"session": system.secret, "outcome": "already_erased"}
    assert second_run[1]["append_only_file_bytes"] > 0
    assert list(system.keys.iterdir()) == []
    history = json_lines_of(run(system.data, "history", system.secret, "--json"))
    assert history[-1]["type"] == "SessionErased"
    assert json_of(run(system.data, "verify", "--json"))["clean"]
    none = run(system.data, "erase", "--older-than", "1m", env=system.env)
    assert none.stdout.decode() == "no session with a key has been closed for 1m\n"


@pytest.mark.parametrize(
    ("words", "keys", "message"),
    [
        (("{plain}",), True, "was not encrypted: its texts are in the log"),
        (("c0.nobody",), True, "no session c0.nobody"),
        (("{secret}",), False, "no key store is named: --keys DIR, or EVENTSCHED_KEYS"),
        ((), True, "INVALID_MESSAGE SESSION: none is named; name one, or give --older-than AGE"),
        (("--older-than", "soon"), True, "--older-than: 90m, 12h or 30d, not 'soon'"),
        (("--older-than", "1m", "--keys", "/nowhere"), False, "no key store /nowhere"),
    ],
)
def test_an_invalid_erasure_is_one_line_and_exit_code_1(
    system: System, words: tuple[str, ...], keys: bool, message: str
) -> None:
    arguments = [word.format(plain=system.plain, secret=system.secret) for word in words]
    done = run(system.data, "erase", *arguments, env=system.env if keys else None)
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert message in done.stderr.decode()
    assert done.stdout == b""


def test_the_environment_sets_the_retention(system: System) -> None:
    env = system.env | {"EVENTSCHED_RETENTION": "30d"}
    done = run(system.data, "erase", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "no session with a key has been closed for 30d\n"


def test_stream_says_what_encryption_needs(system: System) -> None:
    done = run(
        system.data,
        "stream",
        "-",
        "--no-endpointing",
        "--target",
        "es",
        "--encrypt",
        stdin=bytes(3_200),
    )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "eventsched: INVALID_MESSAGE encrypt: no key store is named; "
        "name a folder by --keys, keys= or EVENTSCHED_KEYS\n"
    )
