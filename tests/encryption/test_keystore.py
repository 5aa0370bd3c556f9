"""The key folder: a key for each session, readable by its owner alone, destroyed for good."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventsched.encryption.keystore import Key, KeyFolder, find_key_store
from eventsched.errors import InvalidMessage, KeyMissing, KeyStoreError

S1 = "c0.s1"


async def test_a_stored_key_can_be_read(key_store: KeyFolder) -> None:
    key = Key.new()
    await key_store.put(S1, key)
    again = await KeyFolder(key_store.path).get(S1)
    assert (again.secret, again.id) == (key.secret, key.id)
    assert await key_store.sessions() == [S1]


async def test_only_the_owner_can_read_a_key(key_store: KeyFolder) -> None:
    await key_store.put(S1, Key.new())
    (file,) = key_store.path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_store.path.stat().st_mode) == 0o700


async def test_a_folder_that_is_open_to_others_is_refused(key_store: KeyFolder) -> None:
    await key_store.put(S1, Key.new())
    key_store.path.chmod(0o750)
    for attempt in (key_store.get(S1), key_store.put("c0.s2", Key.new()), key_store.destroy(S1)):
        with pytest.raises(KeyStoreError, match="chmod 700"):
            await attempt
    assert len(list(key_store.path.iterdir())) == 1


async def test_a_second_key_never_replaces_the_first(key_store: KeyFolder) -> None:
    """Of concurrent writers, one succeeds, and its key stays."""
    keys = [Key.new() for _ in range(8)]
    stored: list[str] = []

    async def put(key: Key) -> None:
        try:
            await key_store.put(S1, key)
        except KeyStoreError:
            return
        stored.append(key.id)

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(put, key)
    assert stored == [(await key_store.get(S1)).id]
    assert [file.name for file in key_store.path.iterdir()] == [f"{S1}.key"]


async def test_a_destroyed_key_is_unreadable_and_recorded_until_it_is_settled(
    key_store: KeyFolder,
) -> None:
    key = Key.new()
    await key_store.put(S1, key)
    await key_store.destroy(S1)
    await key_store.destroy(S1)
    assert [(file.name, file.read_bytes()) for file in key_store.path.iterdir()] == [
        (f"{S1}.destroyed", b"")
    ]
    with pytest.raises(KeyMissing, match=r"c0\.s1 is destroyed"):
        await key_store.get(S1)
    assert await key_store.sessions() == [S1], "until it is settled"
    await key_store.settle(S1)
    await key_store.settle(S1)
    assert await key_store.sessions() == []
    assert list(key_store.path.iterdir()) == []


async def test_a_key_that_was_never_stored_cannot_be_destroyed(key_store: KeyFolder) -> None:
    """The wrong folder must not look like a success."""
    await key_store.put("c0.s2", Key.new())
    with pytest.raises(KeyMissing, match="did the session use another key store"):
        await key_store.destroy(S1)
    with pytest.raises(KeyMissing, match="does not exist"):
        await key_store.get(S1)


async def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="no key store"):
        await KeyFolder(tmp_path / "nowhere").get(S1)


async def test_a_file_that_is_no_key_is_refused(key_store: KeyFolder) -> None:
    await key_store.put(S1, Key.new())
    (key_store.path / f"{S1}.key").write_bytes(b"short")
    with pytest.raises(KeyStoreError, match="32 bytes expected, got 5"):
        await key_store.get(S1)


@pytest.mark.parametrize("session", ["../c0.s1", "c0.a/b", "", "s1", "c0."])
async def test_a_name_cannot_leave_the_folder(key_store: KeyFolder, session: str) -> None:
    with pytest.raises(InvalidMessage):
        await key_store.put(session, Key.new())


def test_a_key_does_not_show_itself() -> None:
    key = Key.new()
    for text in (repr(key), str(key), f"{key!r:>40}"):
        assert key.secret.hex() not in text and repr(key.secret) not in text
    assert repr(key) == f"Key({key.id})"
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(key)


def test_an_argument_or_the_environment_names_the_store(
    monkeypatch: pytest.MonkeyPatch, key_store: KeyFolder
) -> None:
    monkeypatch.delenv("EVENTSCHED_KEYS", raising=False)
    assert find_key_store(None) is None
    assert find_key_store(key_store) is key_store
    monkeypatch.setenv("EVENTSCHED_KEYS", "from/outside")
    stores = find_key_store(None), find_key_store("given")
    assert [store.path for store in stores if isinstance(store, KeyFolder)] == [
        Path("from/outside"), Path("given"),
    ]  # fmt: skip


# --- folders and files of others ----------------------------------------------------------------


async def every_method(key_store: KeyFolder) -> list[str]:
    """The messages of all methods, each of which must refuse."""
    messages = []
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: key_store.put(S1, Key.new()),
        lambda: key_store.get(S1),
        lambda: key_store.destroy(S1),
        lambda: key_store.settle(S1),
        key_store.sessions,
    ]
    for call in calls:
        with pytest.raises(KeyStoreError) as caught:
            await call()
        messages.append(str(caught.value))
    return messages


async def test_a_folder_that_is_a_link_is_refused_and_its_place_named(tmp_path: Path) -> None:
    actual = KeyFolder(tmp_path / "actual")
    await actual.put(S1, Key.new())
    await actual.put("c0.s2", Key.new())
    await actual.destroy("c0.s2")
    (tmp_path / "link").symlink_to(actual.path)
    for message in await every_method(KeyFolder(tmp_path / "link")):
        assert f"is a link: name the folder that it points to, {actual.path}" in message
    assert await actual.sessions() == [S1, "c0.s2"]


async def test_a_folder_of_another_user_is_refused(
    key_store: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await key_store.put(S1, Key.new())
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for message in await every_method(key_store):
        assert f"belongs to user {owner}, not to the current user {owner + 1}" in message


async def test_a_key_that_is_a_link_is_refused_and_its_target_unchanged(
    key_store: KeyFolder, tmp_path: Path
) -> None:
    key_store.path.mkdir(mode=0o700)
    target = tmp_path / "precious"
    target.write_bytes(bytes(range(32)))
    (key_store.path / f"{S1}.key").symlink_to(target)
    with pytest.raises(KeyStoreError, match="is no key"):
        await key_store.get(S1)
    with pytest.raises(KeyStoreError):
        await key_store.destroy(S1)
    (key_store.path / "c0.s2.key").write_bytes(bytes(range(32)))
    (key_store.path / "c0.s2.destroyed").symlink_to(target)
    with pytest.raises(KeyStoreError):
        await key_store.destroy("c0.s2")
    assert target.read_bytes() == bytes(range(32))


async def test_a_key_of_zeroes_is_refused(key_store: KeyFolder) -> None:
    """It is what a crash while a key is destroyed leaves, and anybody could decrypt with it."""
    with pytest.raises(ValueError, match="all bytes are zero"):
        Key(bytes(32))
    await key_store.put(S1, Key.new())
    (key_store.path / f"{S1}.key").write_bytes(bytes(32))
    with pytest.raises(KeyStoreError, match="is no key: all bytes are zero"):
        await key_store.get(S1)


# --- crashes ------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


STEPS = ("open", "write", "fsync", "unlink", "link")


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the process before the step with this number of those that change or sync a file."""
    count = 0

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def step_or_crash(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                raise Crash
            return call(*args, **options)

        return step_or_crash

    for name in STEPS:
        monkeypatch.setattr(os, name, before(getattr(os, name)))


@pytest.mark.parametrize("step", range(10))
async def test_a_crash_while_a_key_is_destroyed_leaves_the_key_or_its_mark(
    key_store: KeyFolder, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    key = Key.new()
    await key_store.put(S1, key)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        try:
            key_store._destroy(S1)
        except Crash:
            has_crashed = True
        else:
            has_crashed = False
    names = {file.name for file in key_store.path.iterdir()}
    content = (key_store.path / f"{S1}.key").read_bytes() if f"{S1}.key" in names else b""
    assert content == key.secret or f"{S1}.destroyed" in names
    assert await key_store.sessions() == [S1], "the erasure can be completed"
    await key_store.destroy(S1)
    with pytest.raises(KeyMissing, match="is destroyed"):
        await key_store.get(S1)
    assert has_crashed == (step < STEPS_OF_DESTROY)


STEPS_OF_DESTROY = 8


@pytest.mark.parametrize("order", [["mark", "folder", "key", "remove", "folder"]])
async def test_the_mark_is_on_disk_before_the_key_is_overwritten(
    key_store: KeyFolder, monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    """A crash of the machine keeps what was synced, and may lose or keep anything later."""
    await key_store.put(S1, Key.new())
    steps: list[str] = []
    kinds = {f"{S1}.destroyed": "mark", f"{S1}.key": "key", key_store.path.name: "folder"}
    opened: dict[int, str] = {}
    os_open, os_fsync, os_unlink = os.open, os.fsync, os.unlink

    def open_(path: Any, flags: int, *mode: Any, **options: Any) -> int:
        descriptor = os_open(path, flags, *mode, **options)
        opened[descriptor] = kinds[Path(path).name]
        if flags & os.O_CREAT:
            steps.append("mark")
        return descriptor

    def fsync(descriptor: int) -> None:
        steps.append(opened[descriptor])
        os_fsync(descriptor)

    def unlink(path: Any, *args: Any, **options: Any) -> None:
        steps.append("remove")
        os_unlink(path, *args, **options)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "unlink", unlink)
    key_store._destroy(S1)
    assert steps == order
