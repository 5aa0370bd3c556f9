"""`eventsched token`: make a key that signs tokens, and issue tokens for a gateway.

Owns: the files that `keygen` writes, the printed token. Never does: signing.
Read next: tokens/issue.py, tokens/keys.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from eventsched.cli.options import Options, command, operator_name
from eventsched.errors import InvalidMessage, TokenKeyError
from eventsched.formatting import plural

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Make keys and issue tokens for gateways."
)

NewKey = Annotated[Path, typer.Argument(metavar="FILE", help="File of the new private key.")]
PublicKeys = Annotated[
    Path | None,
    typer.Option(
        "--public", metavar="FILE", help="JWKS that gets the public key [FILE.jwks.json]."
    ),
]
KeyFile = Annotated[
    Path,
    typer.Option(
        "--key",
        metavar="FILE",
        envvar="EVENTSCHED_TOKEN_KEY",
        show_envvar=False,
        help="The private key [EVENTSCHED_TOKEN_KEY].",
    ),
]
RoleName = Annotated[
    str, typer.Option("--role", help="producer, node, viewer, auditor or operator.")
]
Tenant = Annotated[
    str, typer.Option("--tenant", metavar="NAME", help="The bearer's tenant; * for all tenants.")
]
For = Annotated[
    str, typer.Option("--for", metavar="TIME", help="How long it counts: 90s, 10m, at most 24h.")
]
Subject = Annotated[
    str, typer.Option("--subject", metavar="NAME", help="The person or program [USER@HOST].")
]
Prefix = Annotated[
    str, typer.Option("--name", metavar="PREFIX", help="Role node: prefix of the node's name.")
]
NoTexts = Annotated[bool, typer.Option("--no-texts", help="Hide what was spoken.")]
_TIME = re.compile(r"([0-9]{1,6})([smh])")
_UNITS = {"s": 1, "m": 60, "h": 3_600}


@app.command()
@command
async def keygen(options: Options, path: NewKey, public: PublicKeys = None) -> None:
    """Make a private key that signs tokens, and add its public key to a JWKS.

    Gateways need the JWKS only. Give them the keys of the old and the new file while both count.
    """
    from eventsched.cli.output import print_json, print_line
    from eventsched.tokens.keys import PUBLIC_SUFFIX, TokenKey, add_public_key

    key_set = public or path.with_name(path.name + PUBLIC_SUFFIX)
    key = TokenKey.generate()
    try:
        key.create(path)
    except FileExistsError as error:
        raise TokenKeyError(f"{path} exists: name another file") from error
    others = add_public_key(key_set, key)
    if options.json:
        print_json({"key": str(path), "public": str(key_set), "kid": key.id, "others": others})
    else:
        print_line(f"private key: {path}  public keys: {key_set}  kid: {key.id}")
        if others:
            print_line(f"{key_set} has {plural(others, 'other key')}, which count as well")


@app.command()
@command
async def issue(
    options: Options,
    key: KeyFile,
    role: RoleName,
    tenant: Tenant,
    for_: For = "10m",
    subject: Subject = "",
    name: Prefix = "",
    no_texts: NoTexts = False,
) -> None:
    """Print a token. Give it to its bearer only; it counts until it expires."""
    from eventsched.cli.output import print_json, print_line
    from eventsched.tokens.issue import issue as issue_token

    seconds = _seconds(for_)
    token = issue_token(
        key,
        role=role,
        tenant=tenant,
        subject=subject or operator_name(),
        seconds=seconds,
        name=name,
        texts=not no_texts,
    )
    if options.json:
        print_json({"token": token, "role": role, "tenant": tenant, "seconds": seconds})
    else:
        print_line(token)


def _seconds(text: str) -> int:
    """Return the seconds of a time such as `10m`. Raises InvalidMessage."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidMessage.of(
            "--for", f"a time such as 10m expected, got {text!r:.80}", "90s, 10m or 24h"
        )
    return int(match[1]) * _UNITS[match[2]]
