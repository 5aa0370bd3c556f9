"""The translator's protocol, against a pipeline of our own and against apertium where it is.

The pipeline of our own is made of real programs that keep apertium's protocol (a text ends with a
NUL byte, `-z` asks to flush there), so every machine tests the protocol.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from eventsched.demo.speech.translator import (
    TranslationFailed,
    Translator,
    decode,
    encode,
    find_mode,
    stage_commands,
)

STAGE = """#!{python}
import os, sys
if sys.argv[1] != "-z" or sys.argv[2] != "-n":
    sys.exit("told otherwise: " + repr(sys.argv))
pending = b""
while got := os.read(0, 65536):
    pending += got
    while b"\\0" in pending:
        text, _, pending = pending.partition(b"\\0")
        if b"crash" in text:
            sys.exit(3)
        os.write(1, text.replace(b"hello", b"hola").replace(b"world", b"mundo") + b"\\0")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prefix that holds a translator with one pair, en to es, and is on PATH."""
    modes, programs = tmp_path / "share" / "apertium" / "modes", tmp_path / "bin"
    modes.mkdir(parents=True)
    programs.mkdir()
    stage = programs / "stage"
    stage.write_text(STAGE.format(python=sys.executable))
    (programs / "apertium").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (modes / "eng-spa.mode").write_text(f"'{stage}' $1 | '{stage}' $1 $2 \n")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.usefixtures("installed")
def test_pipeline_is_started_once_and_kept() -> None:
    translator = Translator("en", "es")
    assert translator.translate("hello world") == "hola mundo"
    pids = [stage.pid for stage in translator._stages]
    assert translator.translate("hello again") == "hola again"
    assert [stage.pid for stage in translator._stages] == pids
    translator.close()


@pytest.mark.usefixtures("installed")
def test_pipeline_that_ended_fails_one_text_and_is_started_again() -> None:
    translator = Translator("en", "es")
    with pytest.raises(TranslationFailed):
        translator.translate("crash")
    assert translator.translate("hello") == "hola"
    translator.close()


@pytest.mark.usefixtures("installed")
def test_close_ends_every_program() -> None:
    translator = Translator("en", "es")
    translator.translate("hello")
    stages = list(translator._stages)
    translator.close()
    assert len(stages) == 2
    assert all(stage.returncode is not None for stage in stages)


@pytest.mark.usefixtures("installed")
def test_texts_of_several_threads_are_not_mixed() -> None:
    translator = Translator("en", "es")
    answers: dict[int, str | None] = {}

    def ask(number: int) -> None:
        answers[number] = translator.translate(f"hello {number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"hola {number}" for number in range(16)}
    translator.close()


def test_same_language_is_the_text_itself() -> None:
    assert Translator("en", "en").translate("hello") == "hello"


@pytest.mark.usefixtures("installed")
def test_pair_that_is_not_installed_translates_to_none() -> None:
    translator = Translator("en", "fr")
    assert not translator.available
    assert translator.translate("hello") is None


def test_without_the_program_translations_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert Translator("en", "es").translate("hello") is None


def test_stages_flush_and_leave_unknown_words_unmarked() -> None:
    mode = "lt-proc 'a b.bin' | apertium-tagger -g $2 'c.prob' | lt-proc $1 d.bin | lt-proc -p e"
    assert stage_commands(mode) == [
        ["lt-proc", "-z", "a b.bin"],
        ["apertium-tagger", "-z", "-g", "c.prob"],
        ["lt-proc", "-z", "-n", "d.bin"],
        ["lt-proc", "-z", "-p", "e"],
    ]


@pytest.mark.parametrize("text", ["a [b] {c} ^d$ /e\\ @f <g>", "ünï 世界", "a.", "[]", "..."])
def test_what_means_something_to_the_pipeline_comes_back_as_it_was(text: str) -> None:
    assert decode(encode(text).removesuffix(b"\0")) == text


def test_a_text_cannot_end_another() -> None:
    assert encode("a\0b").count(b"\0") == 1


def test_apertium_translates_where_it_is_installed() -> None:
    """Where it is not, the pair must say so; the tests above cover the protocol."""
    translator = Translator("en", "es")
    if find_mode("en", "es") is None:
        assert translator.translate("the children") is None
        return
    assert translator.translate("there is a small problem with the new system") == (
        "Hay un problema pequeño con el sistema nuevo"
    )
    assert translator.translate("the houses") == "Las casas"
    translator.close()
