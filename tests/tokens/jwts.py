"""Tokens that no honest issuer makes: any header, any claims, any signature."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

from eventsched.tokens.keys import TokenKey

NOW_S = 1_800_000_000
CLAIMS: dict[str, Any] = {
    "iss": "eventsched", "aud": "eventsched", "sub": "ann", "iat": NOW_S, "nbf": NOW_S,
    "exp": NOW_S + 600, "jti": "1", "role": "viewer", "tenant": "acme",
}  # fmt: skip


def encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signing_input(header: Any, claims: Any) -> str:
    return f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"


def signed(key: TokenKey, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token with these claims, signed with the key; None removes a claim."""
    named = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    return signed_json(key, {"alg": "Ed25519", "kid": key.id} | (header or {}), named)


def signed_json(key: TokenKey, header: Any, claims: Any) -> str:
    """A token of any JSON, signed with the key."""
    text = signing_input(header, claims)
    private: Any = key.key.get_op_key("sign")
    return f"{text}.{encode(private.sign(text.encode()))}"


def unsigned(key: TokenKey, algorithm: str) -> str:
    """A token without a signature, as `none` allows it."""
    return signing_input({"alg": algorithm, "kid": key.id}, CLAIMS) + "."


def signed_with_secret(key: TokenKey, secret: bytes) -> str:
    """A token of HS256, with bytes that everybody knows as its secret."""
    text = signing_input({"alg": "HS256", "kid": key.id}, CLAIMS)
    return f"{text}.{encode(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"
