"""Which tests look at a mutant of a script: those that call it, the likeliest to notice first; if
these notice nothing, all others that call it.

Owns: the choice, derived from the sources: which scripts include a changed include, which names of
scripts the tests and their helpers call, and which tests speak of the same things as the changed
file. No file is mapped to its tests by hand: files may be renamed, split and added.
Never does: the header and loader tests, which read sources instead of running them. The tests of
a fault in the Python are named by the fault (chosen.py). Read next: bench.py.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from math import log, sqrt
from pathlib import Path

from tests.model.test_model import CALLED_BY_SETS
from tests.mutants import chosen
from tests.mutants.lua import FOLDER
from tests.mutants.mutant import ROOT, Mutant

_MODELS = "tests/model/test_model.py"
MODEL = f"{_MODELS}::test_scripts_reply_append_and_store_what_the_model_says"
SETS = f"{_MODELS}::test_scripts_of_projection_sets_reply_and_store_what_the_model_says"
CALLERS = (
    "tests/scripts",
    "tests/archive/test_scripts.py",
    "tests/projector",
    "tests/verify",
    "tests/failures/test_clock.py",
    "tests/client/test_session.py",
)
"""Where tests of the scripts are, and fast enough to run for each mutant."""
READERS = {"test_headers.py", "test_loader.py"}
ALONE = {"test_call.py", "test_cache.py", "test_any_sequence.py"}
"""Long, or of Lua in general: first for the file that they are named after, and last for others."""
FILES_MAX = 5
"""The likeliest files; after them the model, which calls every script."""
SHARED = 8
"""What so many scripts include, the model sees soonest."""
DEPTH_MAX = 6
"""Helpers that call helpers, so many deep."""
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
_WORD = re.compile(r"[a-z]{3,}")


def noticing(mutant: Mutant) -> tuple[str, ...]:
    """The tests to run for this mutant."""
    if mutant.kind == "chosen":
        return chosen.tests_of(mutant)
    stem = Path(mutant.file).stem
    scripts = users_of(stem) if "/include/" in mutant.file else frozenset({stem})
    first = _likeliest(stem, scripts)
    if scripts <= CALLED_BY_SETS:
        return (SETS, *first)
    return (MODEL, *first) if len(scripts) >= SHARED else (*first, MODEL)


def others(mutant: Mutant) -> tuple[str, ...]:
    """The tests to run for this mutant if those of `noticing` notice nothing."""
    if mutant.kind == "chosen":
        return ()
    stem = Path(mutant.file).stem
    scripts = users_of(stem) if "/include/" in mutant.file else frozenset({stem})
    first = frozenset(_likeliest(stem, scripts))
    return tuple(file for file in _files_for(stem, scripts) if file not in first)


@cache
def users_of(include: str) -> frozenset[str]:
    """The scripts whose function holds this include, directly or through others."""
    return frozenset(name for name in _scripts() if include in _included_by(name))


@cache
def _scripts() -> frozenset[str]:
    return frozenset(path.stem for path in (ROOT / FOLDER).glob("*.lua"))


@cache
def _included_by(name: str) -> frozenset[str]:
    """Every include of this script or include, and theirs."""
    direct = frozenset(_INCLUDE.findall(_lua_file(name).read_text(encoding="utf-8")))
    return direct.union(*(_included_by(one) for one in direct if one != name))


def _lua_file(name: str) -> Path:
    return ROOT / FOLDER / ("" if name in _scripts() else "include") / f"{name}.lua"


@cache
def _likeliest(stem: str, scripts: frozenset[str]) -> tuple[str, ...]:
    """The first files that call one of these scripts, without those that are slow for it."""
    files = _files_for(stem, scripts)
    quick = [file for file in files if _is_named_after(file, stem) or Path(file).name not in ALONE]
    return tuple(quick[:FILES_MAX])


@cache
def _files_for(stem: str, scripts: frozenset[str]) -> tuple[str, ...]:
    """The files that call one of these scripts: the one that is named after the changed file, then
    those whose words are most alike to its words.
    """
    words = _weighted(_lua_file(stem))

    def likeness(file: str) -> float:
        others = _weighted(ROOT / file)
        return sum(weight * others.get(word, 0) for word, weight in words.items())

    files = [
        file
        for file in _test_files()
        if _is_named_after(file, stem) or not scripts.isdisjoint(_scripts_called(file))
    ]
    files.sort(key=lambda file: (not _is_named_after(file, stem), -likeness(file), file))
    return tuple(files)


def _is_named_after(file: str, stem: str) -> bool:
    """test_close.py is of close_session, test_nodes.py of drain_node."""
    names = {form for word in stem.split("_") for form in (word, f"{word}s")}
    return names.issuperset(Path(file).stem.removeprefix("test_").split("_"))


@cache
def _words(file: Path) -> Mapping[str, int]:
    """How often the file has each word; names count as the words that they are made of."""
    return Counter(_WORD.findall(file.read_text(encoding="utf-8").lower().replace("_", " ")))


@cache
def _files_with() -> Mapping[str, int]:
    """In how many test files each word is."""
    return Counter(word for file in _test_files() for word in _words(ROOT / file))


@cache
def _weighted(file: Path) -> Mapping[str, float]:
    """Each word of the file by its weight (tf-idf): one that few files have tells most; together
    of length 1.
    """
    words, count, files_with = _words(file), len(_test_files()), _files_with()
    weights = {
        word: (1 + log(times)) * log(count / files_with[word])
        for word, times in words.items()
        if word in files_with
    }
    length = sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    return {word: weight / length for word, weight in weights.items()}


@cache
def _test_files() -> tuple[str, ...]:
    return tuple(
        file.relative_to(ROOT).as_posix()
        for path in map(ROOT.joinpath, CALLERS)
        for file in (sorted(path.rglob("test_*.py")) if path.is_dir() else [path])
        if file.name not in READERS
    )


@cache
def _scripts_called(file: str) -> frozenset[str]:
    """The scripts that a test file calls, itself or through helpers."""
    names = _names_called(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    return frozenset[str]().union(*(_scripts_of(name, DEPTH_MAX) for name in names))


@cache
def _scripts_of(name: str, depth: int) -> frozenset[str]:
    """The scripts that a call of this name may come to."""
    if name in _scripts():
        return frozenset({name})
    if depth == 0:
        return frozenset()
    inner = _helpers().get(name, frozenset())
    return frozenset[str]().union(*(_scripts_of(one, depth - 1) for one in inner))


@cache
def _helpers() -> Mapping[str, frozenset[str]]:
    """Name of a helper of the tests or of a function of the package -> the names that it calls."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    helpers = [path for path in (ROOT / "tests").rglob("*.py") if "test_" not in path.name]
    for path in [*(ROOT / "eventsched").rglob("*.py"), *helpers]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name].update(_names_called(node))
    return {name: frozenset(called) for name, called in found.items()}


def _names_called(tree: ast.AST) -> Iterator[str]:
    """What is called, and what may be the name of a script in a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr
            elif isinstance(node.func, ast.Name):
                yield node.func.id
        elif isinstance(node, ast.Constant) and node.value in _scripts():
            yield str(node.value)
