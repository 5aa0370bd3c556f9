"""A hook of mkdocs: the pages of the documentation site that are not in docs/.

Owns: the pages from other folders of the repository, and the links between all pages; the
reference, with a page for each group of public names. A public name without a docstring is an
error.
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
"""Path in the repository -> path on the site. Pages of docs/ have the same path in both."""
SOURCES = {path: source for source, path in OUTSIDE.items()}
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=[)#])")
GROUPS = {
    "errors": ("Errors", "What the library raises; every class derives from EventschedError."),
    "keys": ("Keys", "The key store of encrypted sessions."),
    "serving": ("Registration", "Nodes, the jobs they get and the results they return."),
    "producing": ("Producing and listening", "Clients, sessions and what comes back."),
}
SERVING = {"Batch", "BlockingJob", "Job", "JobError", "NoSpeechError", "Node"}


NOT_FOR_USERS = {"BlockingJob", "Client", "Job", "Session"}
"""Classes whose constructor only the library calls."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from other folders, and the reference."""
    for source, path in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=text))
    for group, (title, description) in GROUPS.items():
        names = [name for name in eventsched.__all__ if group_of(name) == group]
        content = "\n\n".join([f"# {title}", description, *map(directive, names)]) + "\n"
        files.append(File.generated(config, f"reference/{group}.md", content=content))
    missing = list(undocumented())
    if missing:
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert links between files of the repository to links between pages of the site."""
    path = page.file.src_uri
    source = SOURCES.get(path, f"docs/{path}")

    def site_link(match: re.Match[str]) -> str:
        target = normpath(join(dirname(source), match[1]))
        on_site = OUTSIDE.get(target, target.removeprefix("docs/"))
        return relpath(on_site, dirname(path) or ".")

    return LINK.sub(site_link, markdown)


def directive(name: str) -> str:
    """Return the directive that mkdocstrings replaces by the description of a public name."""
    merges = str(name not in NOT_FOR_USERS).lower()
    return f"::: eventsched.{name}\n    options:\n      merge_init_into_class: {merges}"


def group_of(name: str) -> str:
    """Return the group whose page describes a public name."""
    value = getattr(eventsched, name)
    if isinstance(value, type) and issubclass(value, eventsched.EventschedError):
        return "errors"
    if name in SERVING:
        return "serving"
    return "keys" if name.startswith("Key") else "producing"


def undocumented() -> Iterator[str]:
    """Yield the public names, methods and properties that have no docstring."""
    for name in eventsched.__all__:
        value = getattr(eventsched, name)
        if not is_documented(value):
            yield name
        members = vars(value) if isinstance(value, type) else {}
        for member, attribute in members.items():
            is_code = isinstance(attribute, FunctionType | property | classmethod | staticmethod)
            if is_code and not member.startswith("_") and not is_documented(attribute):
                yield f"{name}.{member}"


def is_documented(value: Any) -> bool:
    """Whether a class or function has a docstring of its own, not an inherited one."""
    return bool(vars(value).get("__doc__") if isinstance(value, type) else value.__doc__)
