"""What the documentation site has beside docs/: a hook of mkdocs.

Owns: the pages that lie elsewhere in the repository and the links between all of them; the
reference, a page for each group of public names, none of which may be without a docstring.
Never does: write into docs/. Read next: mkdocs.yml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os.path import normpath, relpath
from pathlib import Path
from posixpath import dirname, join
from types import FunctionType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import eventsched

ROOT = Path(__file__).parents[1]
AS_THEY_ARE = ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "RELEASING", "SECURITY")
OUTSIDE = {
    "README.md": "index.md",
    "eventsched/lua/README.md": "functions.md",
    **{f"{name}.md": f"{name}.md" for name in AS_THEY_ARE},
}
"""Place in the repository -> place on the site. Pages of docs/ keep their places."""
SOURCES = {place: source for source, place in OUTSIDE.items()}
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=[)#])")
GROUPS = {
    "errors": ("Errors", "What the library raises; every class derives from EventschedError."),
    "keys": ("Keys", "The key store of encrypted sessions."),
    "serving": ("Registration", "Nodes, the jobs they get and the results they return."),
    "producing": ("Producing and listening", "Clients, sessions and what comes back."),
}
SERVING = {"BlockingJob", "Job", "JobError", "NoSpeechError", "Node"}


MADE_BY_THE_LIBRARY = {"BlockingJob", "Client", "Job", "Session"}
"""Classes whose constructor is not for users."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere, and the reference."""
    for source, place in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    for group, (title, told) in GROUPS.items():
        names = [name for name in eventsched.__all__ if group_of(name) == group]
        content = "\n\n".join([f"# {title}", told, *map(directive, names)]) + "\n"
        files.append(File.generated(config, f"reference/{group}.md", content=content))
    missing = list(undocumented())
    if missing:
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that are right in the repository become links that are right on the site."""
    place = page.file.src_uri
    source = SOURCES.get(place, f"docs/{place}")

    def moved(match: re.Match[str]) -> str:
        target = normpath(join(dirname(source), match[1]))
        on_site = OUTSIDE.get(target, target.removeprefix("docs/"))
        return relpath(on_site, dirname(place) or ".")

    return LINK.sub(moved, markdown)


def directive(name: str) -> str:
    """What mkdocstrings replaces by the description of a public name."""
    merges = str(name not in MADE_BY_THE_LIBRARY).lower()
    return f"::: eventsched.{name}\n    options:\n      merge_init_into_class: {merges}"


def group_of(name: str) -> str:
    """The page that describes a public name."""
    value = getattr(eventsched, name)
    if isinstance(value, type) and issubclass(value, eventsched.EventschedError):
        return "errors"
    if name in SERVING:
        return "serving"
    return "keys" if name.startswith("Key") else "producing"


def undocumented() -> Iterator[str]:
    """Public names, and public methods and properties of public classes, without a docstring."""
    for name in eventsched.__all__:
        value = getattr(eventsched, name)
        if not is_documented(value):
            yield name
        members = vars(value) if isinstance(value, type) else {}
        for member, made in members.items():
            is_code = isinstance(made, FunctionType | property | classmethod | staticmethod)
            if is_code and not member.startswith("_") and not is_documented(made):
                yield f"{name}.{member}"


def is_documented(value: Any) -> bool:
    """Whether a class or function has a docstring of its own, not an inherited one."""
    return bool(vars(value).get("__doc__") if isinstance(value, type) else value.__doc__)
