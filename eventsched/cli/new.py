"""`eventsched new projection NAME`: a package with a read model of your own and its test.

Owns: the names in the files of the package, and where they are written. The files are in
eventsched/templates. Never does: replace a file. Read next: docs/read-models.md.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from eventsched.cli.options import Options, command
from eventsched.errors import EventschedError, InvalidMessage

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make a package of your own.")
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the read model: a-z, 0-9 and _.")
]
Into = Annotated[
    Path, typer.Option("--into", metavar="DIR", help="Make the folder of the package here.")
]
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
FILES = {
    "pyproject.toml.txt": "pyproject.toml",
    "module.py.txt": "{name}.py",
    "test.py.txt": "test_{name}.py",
    "README.md.txt": "README.md",
}
"""File of the template -> name of the file that is made of it."""


@app.callback()
def new() -> None:
    """Make a package of your own."""


@app.command()
@command
async def projection(options: Options, name: Name, into: Into = Path()) -> None:
    """Make a package with a read model, its test, and the entry point that installs it."""
    from eventsched.cli.output import print_json, print_line

    _check_name(name)
    folder = into / name
    texts = {target.format(name=name): _text(file, name) for file, target in FILES.items()}
    try:
        folder.mkdir(parents=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except FileExistsError as error:
        raise EventschedError(f"{folder} exists: choose another name or folder") from error
    except OSError as error:
        raise EventschedError(f"cannot write {folder}: {error.strerror}") from error
    if options.json:
        print_json({"folder": str(folder), "files": list(texts)})
        return
    print_line(f"made {folder}: {', '.join(texts)}")
    print_line(f"next: cd {folder} && pip install -e '.[dev]' && pytest")
    print_line(f"then: EVENTSCHED_PROJECTIONS={name} eventsched up")


def _check_name(name: str) -> None:
    from keyword import iskeyword

    from eventsched.projection.installed import SYSTEM_NAMES, load_core

    taken = SYSTEM_NAMES | {each.name for each in load_core().projections} | {"eventsched"}
    if not NAME.fullmatch(name) or iskeyword(name) or name in taken or name == "projections":
        raise InvalidMessage.of(
            "NAME", f"{name!r:.80} cannot be a read model", "take another name of a-z, 0-9 and _"
        )


def _text(file: str, name: str) -> str:
    """Return the text of a file of the template, with the names of the package."""
    text = (files("eventsched") / "templates" / "projection" / file).read_text(encoding="utf-8")
    names = {
        "name": name,
        "class": "".join(part.capitalize() for part in name.split("_")) or "ReadModel",
        "distribution": f"eventsched-{name.replace('_', '-').strip('-')}",
    }
    for placeholder, value in names.items():
        text = text.replace(f"{{{{{placeholder}}}}}", value)
    return text
