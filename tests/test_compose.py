"""docker-compose.yml and Dockerfile: commands that exist, confined containers, no secret inside.

Both files are read, not run; the command of Redis runs on a real server. `make image` builds and
tests the image where a container engine is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
import yaml

import eventsched
from eventsched.cli.app import COMMANDS
from eventsched.node.node import Node
from eventsched.roles.runner import ROLES, running
from eventsched.schema.settings import PREFIX, Settings
from eventsched.server.discovery import find
from eventsched.server.embedded import ENCODING_OPTIONS
from eventsched.server.testing import wait_for
from eventsched.store.connection import open_connection
from tests.systems import serving

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = sorted(set(SERVICES) - {"redis"})
NODES = ("node-1", "node-2")
HERE = {"URL", "DATA", "ARCHIVE", "ARCHIVE_KEY"}
"""Variables of the environment beside settings."""
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
VERSION = re.compile(r"[a-z./]+:\d+\.\d+\.\d+(-[a-z]+)*")
LIST = re.compile(r"^ACL SETUSER (\w+) +(.+)$", re.MULTILINE)


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile in order, each with its arguments on one line."""
    text = (ROOT / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line]


def defaults_of(text: str) -> str:
    """The text with each variable that has a default replaced by it."""
    return VARIABLE.sub(lambda match: match[3] if match[2] == ":-" else match[0], text)


def server_script() -> str:
    shell, options, script = SERVICES["redis"]["command"]
    assert (shell, options) == ("sh", "-euc")
    return str(script).replace("$$", "$")


# --- what runs ----------------------------------------------------------------------------------


def test_each_role_and_two_nodes_are_there() -> None:
    commands = [tuple(SERVICES[name]["command"]) for name in OURS]
    assert {(command[1], command[2]) for command in commands if command[1] == "run"} == {
        ("run", role) for role in ROLES
    }
    assert [command[1] for command in commands].count("node") == len(NODES)
    assert {command[0] for command in commands} == {"eventsched"}
    assert {command[1] for command in commands} <= set(COMMANDS)


@pytest.mark.parametrize("name", NODES)
def test_its_node_can_be_imported(name: str) -> None:
    module, _, attribute = SERVICES[name]["command"][2].partition(":")
    assert isinstance(getattr(import_module(module), attribute), Node)
    copied = [text.split()[:-1] for kind, text in instructions() if kind == "COPY"]
    assert [module.partition(".")[0]] in copied


def test_every_setting_that_it_names_exists() -> None:
    named = {
        name.removeprefix(PREFIX)
        for service in SERVICES.values()
        for name in service.get("environment", {})
        if name.startswith(PREFIX)
    }
    assert named
    assert named <= HERE | {name.upper() for name in Settings.__struct_fields__}


def test_each_service_has_a_health_check_of_its_own() -> None:
    checks = {name: service["healthcheck"]["test"] for name, service in SERVICES.items()}
    for role in ROLES:
        assert checks[role] == ["CMD", "eventsched", "status", "--check", "--role", role]
    for name in NODES:
        assert checks[name][0] == "CMD-SHELL"
        assert checks[name][1].startswith("eventsched --json state node $$NODE_NAME | grep")
        assert SERVICES[name]["environment"]["NODE_NAME"] == name
    assert checks["redis"] == ["CMD-SHELL", "redis-cli --user scheduler ping | grep -q PONG"]


# --- confinement --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root_or_has_rights(name: str) -> None:
    service = SERVICES[name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [each.partition(":")[0] for each in service["tmpfs"]] == ["/tmp"]
    rights = {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"}
    assert rights & set(service) == set()


@pytest.mark.parametrize("name", SERVICES)
def test_services_reach_each_other_only_and_publish_no_port(name: str) -> None:
    service = SERVICES[name]
    assert service["networks"] == ["private"]
    assert FILE["networks"]["private"] == {"internal": True}
    assert "ports" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_only_named_volumes_are_mounted_and_the_signing_key_by_the_archiver_alone(
    name: str,
) -> None:
    mounts = dict(each.split(":") for each in SERVICES[name].get("volumes", []))
    assert set(mounts) <= set(FILE["volumes"])
    assert ("archive-key" in mounts) == (name == "archiver")
    if name == "archiver":
        environment = SERVICES[name]["environment"]
        folder, key = environment["EVENTSCHED_ARCHIVE"], environment["EVENTSCHED_ARCHIVE_KEY"]
        assert Path(key).parent == Path(mounts["archive-key"])
        assert Path(mounts["archive-data"]) in Path(folder).parents
        assert not Path(key).is_relative_to(mounts["archive-data"])


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_named_by_their_whole_version(name: str) -> None:
    image = defaults_of(SERVICES[name]["image"])
    assert VERSION.fullmatch(image), image
    if name != "redis":
        base = SERVICES[name]["build"]["args"]["PYTHON_IMAGE"]
        assert ("ARG", f"PYTHON_IMAGE={defaults_of(base)}") in instructions()
        assert VERSION.fullmatch(defaults_of(base)), base


# --- users of Redis -----------------------------------------------------------------------------

USERS = {
    "scheduler": "SCHEDULER_PASSWORD",
    "node": "NODE_PASSWORD",
    "producer": "PRODUCER_PASSWORD",
}
PASSWORDS = {name: f"{name}0123456789ABCDEF" for name in USERS}
RULES = {"scheduler": "deploy", "node": "minimal", "producer": "minimal"}
"""User -> the access list of docs/operations.md."""


def environ(passwords: dict[str, str]) -> dict[str, str]:
    """The environment of the container of Redis with these passwords by user."""
    given = {variable: passwords[user] for user, variable in USERS.items()}
    return {
        name: VARIABLE.sub(lambda match: given[match[1]], value)
        for name, value in SERVICES["redis"]["environment"].items()
    }


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    """Start a server by the command of the container; its URL needs a user and a password."""
    binary = find()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(binary.path)
    script = server_script().replace("\nCONFIG\n", "\nport 0\nunixsocket s\nCONFIG\n")
    process = subprocess.Popen(
        ["sh", "-euc", script], cwd=tmp_path, stdout=subprocess.DEVNULL,
        env=environ(PASSWORDS) | {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
    )  # fmt: skip
    try:
        wait_for("the server listens", (tmp_path / "s").is_socket)
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
        assert "redis-server" in arguments or binary.path.name in arguments
        for password in PASSWORDS.values():
            assert password not in arguments
        yield f"unix://{{}}@{tmp_path}/s"
    finally:
        process.terminate()
        assert process.wait(20) == 0, "the signal reaches the server itself"


def url_of(server_url: str, user: str) -> str:
    return server_url.format(f"{user}:{PASSWORDS[user]}")


def test_there_is_no_default_password_and_its_absence_is_named() -> None:
    uses = [match for match in VARIABLE.finditer(TEXT) if match[1] in USERS.values()]
    assert Counter(match[1] for match in uses) == {
        "SCHEDULER_PASSWORD": 2, "NODE_PASSWORD": 1 + len(NODES), "PRODUCER_PASSWORD": 1,
    }  # fmt: skip
    for match in uses:
        assert match[2] == ":?", "no default, and an empty password is refused"
        assert ".env" in match[3]
        assert "docker-compose.yml" in match[3]
    named = re.findall(r"[A-Z_]*(?:PASS|AUTH|SECRET|TOKEN)[A-Z_]*", TEXT)
    assert set(named) == {*USERS.values(), "_PASSWORD", "REDISCLI_AUTH"}
    (command,) = re.findall(r"for user in ([A-Z ]+); do", TEXT)
    assert [f"{name}_PASSWORD" for name in command.split()] == list(USERS.values())


def test_each_service_has_the_user_and_the_rules_of_its_work() -> None:
    for name in OURS:
        user = "node" if name in NODES else "scheduler"
        url = SERVICES[name]["environment"]["EVENTSCHED_URL"]
        (variable,) = VARIABLE.findall(url)
        assert variable[0] == USERS[user]
        assert VARIABLE.sub("PASSWORD", url) == f"redis://{user}:PASSWORD@redis:6379/0"
    for name in NODES:
        condition = SERVICES[name]["depends_on"]
        assert condition == {"dispatcher": {"condition": "service_healthy"}}, "it loads functions"


def test_the_server_needs_a_password_and_shows_none_in_an_argument(server_url: str) -> None:
    strangers = ["", ":", "default:", "node:", f"producer:{PASSWORDS['node']}", "other:x"]
    for stranger in strangers:
        url = server_url.replace("{}@", f"{stranger}@" if stranger else "")
        with (
            redis.Redis.from_url(url) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.ping()


def test_the_server_has_the_access_lists_of_the_documents() -> None:
    documented = dict(LIST.findall((ROOT / "docs/operations.md").read_text(encoding="utf-8")))
    script = server_script()
    for user, name in RULES.items():
        rules = " ".join(re.findall(rf'^{name}="(?:\${name} )?([^"]+)"$', script, re.MULTILINE))
        assert f"on >PASSWORD {rules}" == documented[name]
        assert re.search(rf"^user {user} on >\$\w+ \${name}$", script, re.MULTILINE)
    assert len(re.findall("^user ", script, re.MULTILINE)) == 1 + len(USERS)
    assert re.search(r"^user default off$", script, re.MULTILINE)


async def test_the_system_runs_with_the_users_of_the_file(server_url: str) -> None:
    roles = [role for role in ROLES if role != "archiver"]
    node: Any = import_module("eventsched.examples.echo_node").node
    with anyio.fail_after(60):
        async with (
            open_connection(url_of(server_url, "scheduler")) as connection,
            running(connection, roles),
            eventsched.connect(url_of(server_url, "node")) as at_node,
            eventsched.connect(url_of(server_url, "producer")) as es,
            serving(at_node, node),
            es.session("acme", "en", ["es"]) as session,
        ):
            await session.append(bytes(3_200), end_of_utterance=True)
            async for outcome in session.results():
                assert outcome.outcome in ("result", "no_speech")
                break
    for user, commands in {
        "node": ["FLUSHALL", "CONFIG GET dir", "FUNCTION LOAD code", "GET other", "SHUTDOWN"],
        "producer": ["FUNCTION DELETE library", "ACL LIST", "CLIENT KILL USER node", "KEYS *"],
        "scheduler": ["CONFIG SET maxmemory 1", "FUNCTION FLUSH", "SET other 1"],
    }.items():
        with redis.Redis.from_url(url_of(server_url, user)) as client:
            for command in commands:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command.split())


def test_the_server_has_the_configuration_of_the_file(server_url: str) -> None:
    with redis.Redis.from_url(url_of(server_url, "scheduler"), decode_responses=True) as client:
        info: Any = client.info()
    assert (info["maxmemory_policy"], info["maxmemory"]) == ("noeviction", 2 << 30)
    assert info["aof_enabled"] == 1
    config = server_script().partition("<<CONFIG\n")[2].splitlines()
    options = dict(line.split(" ", 1) for line in config if " " in line)
    assert (options["appendonly"], options["appendfsync"]) == ("yes", "always")
    assert {name: options[name] for name in ENCODING_OPTIONS} == dict(ENCODING_OPTIONS)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("password", ["", 'x" y', "a\nsave 1", "p@ss", "a/b"])
def test_a_password_that_cannot_be_in_a_url_is_refused(
    tmp_path: Path, user: str, password: str
) -> None:
    done = subprocess.run(
        ["sh", "-euc", server_script()], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=environ(PASSWORDS | {user: password}) | {"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "a password may have letters and digits only\n"


# --- the image ----------------------------------------------------------------------------------


def test_the_image_runs_as_the_user_of_the_compose_file() -> None:
    lines = instructions()
    kinds = [kind for kind, _ in lines]
    final = lines[len(kinds) - 1 - kinds[::-1].index("FROM") :]
    users = [text for kind, text in final if kind == "USER"]
    assert users == [SERVICES["dispatcher"]["user"]]
    user, _, group = users[0].partition(":")
    after = [kind for kind, _ in final[[kind for kind, _ in final].index("USER") + 1 :]]
    assert after == ["CMD"]
    (accounts,) = (text for kind, text in final if kind == "RUN" and "useradd" in text)
    assert f"--uid {user} --gid {group}" in accounts
    for mount in SERVICES["archiver"]["volumes"]:
        assert mount.partition(":")[2] in accounts.partition("install --directory --mode 700")[2]


def test_the_image_has_only_packages_with_hashes_and_named_files() -> None:
    lines = instructions()
    installs = [text for kind, text in lines if kind == "RUN" and "pip " in text]
    assert len(installs) == 4
    for text in installs:
        assert "--require-hashes" in text or ("--no-deps" in text and "--no-index" in text), text
    assert "ADD" not in {kind for kind, _ in lines}
    copied = {
        word
        for kind, text in lines
        if kind == "COPY" and not text.startswith("--from=build ")
        for word in text.split()[:-1]
    }
    assert "." not in copied
    assert all((ROOT / name).exists() for name in copied)
    assert {name.partition("/")[0] for name in copied} == allowed_in_image()
    named = " ".join(text for kind, text in lines if kind in ("ARG", "ENV"))
    assert not re.search(r"PASS|SECRET|TOKEN|KEY|AUTH", named)


# --- ignore files -------------------------------------------------------------------------------

SECRETS = (
    ".env", ".env.local", "archive.key", "run/archive.key", "run/segments.key", "keys/c0.abc.key",
    "server.pem", ".eventsched/server.json", "meeting/.eventsched/appendonlydir/a.aof", "dump.rdb",
    "archive/c0/00001.parquet", "run/c0/00001.parquet", "run/archive.pub", "appendonlydir/x.aof",
)  # fmt: skip


def docker_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def allowed_in_image() -> set[str]:
    return {line[1:] for line in docker_patterns() if line.startswith("!")}


def test_nothing_gets_into_the_image_that_is_not_allowed_by_name() -> None:
    patterns = docker_patterns()
    assert patterns[0] == "*", "everything is left out first"
    last = max(place for place, line in enumerate(patterns) if line.startswith("!"))
    excluded = patterns[last + 1 :]
    assert all(line.startswith("**/") for line in excluded)
    matchers = [line.removeprefix("**/") for line in excluded]
    for path in SECRETS:
        inside = Path("eventsched") / path
        assert any(part.match(matcher) for part in map(Path, inside.parts) for matcher in matchers)


def test_git_ignores_keys_passwords_archives_and_data_folders(tmp_path: Path) -> None:
    git = shutil.which("git")
    assert git
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run([git, "init", "--quiet"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [git, "check-ignore", "--stdin"], cwd=tmp_path, input="\n".join(SECRETS),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == list(SECRETS)
