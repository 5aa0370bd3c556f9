"""Which tokens a gateway accepts: the algorithm is the key's, and every claim is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey
from joserfc.jwt import encode

from eventsched.errors import InvalidMessage, TokenKeyError, Unauthenticated
from eventsched.tokens import TokenKey, issue
from eventsched.tokens.key_source import KeySource
from eventsched.tokens.keys import add_public_key, read_public_keys
from eventsched.tokens.verify import TOKEN_BYTES_MAX, Verifier
from tests.tokens import jwts
from tests.tokens.jwts import (
    CLAIMS,
    NOW_S,
    signed,
    signed_with_secret,
    unsigned,
)


@pytest.fixture
def key() -> TokenKey:
    return TokenKey.generate()


@pytest.fixture
def verifier(key: TokenKey, tmp_path: Path) -> Verifier:
    add_public_key(tmp_path / "keys.json", key)
    return Verifier(KeySource(str(tmp_path / "keys.json")), now_s=lambda: NOW_S)


async def refusal(verifier: Verifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as raised:
        await verifier.verify(token)
    assert token[-20:] not in str(raised.value)
    return str(raised.value)


async def test_a_token_that_was_issued_is_accepted(verifier: Verifier, key: TokenKey) -> None:
    token = issue(
        key, role="node", tenant="acme", subject="gpu", name="gpu-", texts=False, now_s=NOW_S
    )
    claims = await verifier.verify(token)
    assert (claims.role, claims.tenant, claims.sub, claims.name) == ("node", "acme", "gpu", "gpu-")
    assert claims.exp == NOW_S + 600
    assert not claims.texts
    assert claims.covers("acme")
    assert not claims.covers("other")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW_S - 31}, "expired"),
        ({"nbf": NOW_S + 31}, "not valid yet"),
        ({"iat": NOW_S + 31, "exp": NOW_S + 600}, "not valid yet"),
        ({"exp": NOW_S + 86_401}, "more than 24 h"),
        ({"aud": "another"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": None}, "aud"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"jti": None}, "jti"),
        ({"iss": None}, "iss"),
        ({"sub": ""}, "sub"),
        ({"sub": "x" * 129}, "sub"),
        ({"role": "root"}, "role"),
        ({"tenant": None}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "**"}, "tenant"),
        ({"texts": "no"}, "texts"),
        ({"exp": 1e400}, ""),
        ({"exp": "1900000000"}, "exp"),
        ({"sub": "\ud800"}, "Unicode"),
    ],
)
async def test_a_claim_that_is_missing_or_wrong_is_refused(
    verifier: Verifier, key: TokenKey, claims: dict[str, Any], reason: str
) -> None:
    assert reason in await refusal(verifier, signed(key, **claims))


@pytest.mark.parametrize(
    "claims",
    [{"exp": NOW_S - 29}, {"nbf": NOW_S + 30}, {"aud": ["x", "eventsched"]}, {"tenant": "*"}],
)
async def test_clocks_may_differ_and_an_audience_may_be_a_list(
    verifier: Verifier, key: TokenKey, claims: dict[str, Any]
) -> None:
    assert (await verifier.verify(signed(key, **claims))).sub == "ann"


async def test_the_algorithm_is_that_of_the_key(verifier: Verifier, key: TokenKey) -> None:
    public = json.dumps(key.public()).encode()
    raw = key.key.get_op_key("verify").public_bytes_raw()
    for token in (
        unsigned(key, "none"),
        unsigned(key, "None"),
        unsigned(key, "Ed25519"),
        signed_with_secret(key, public),
        signed_with_secret(key, raw),
        signed(key, {"alg": "EdDSA"}),  # the same signature under the other name of the algorithm
        signed(key, {"alg": "RS256"}),
    ):
        assert "not signed as expected" in await refusal(verifier, token)


async def test_another_key_does_not_sign(verifier: Verifier, key: TokenKey) -> None:
    other = TokenKey.generate()
    assert "unknown key" in await refusal(verifier, signed(other))
    assert "not signed as expected" in await refusal(verifier, signed(other, {"kid": key.id}))
    assert "names no key" in await refusal(verifier, signed(key, {"kid": None}))


async def test_a_key_in_the_header_is_not_used(verifier: Verifier) -> None:
    other = TokenKey.generate()
    header = {"jwk": other.public(), "jku": "https://example.org/keys"}
    assert "unknown key" in await refusal(verifier, signed(other, header))


async def test_changed_claims_are_refused(verifier: Verifier, key: TokenKey) -> None:
    head, _, signature = signed(key).split(".")
    _, body, _ = signed(key, tenant="*").split(".")
    assert "not signed as expected" in await refusal(verifier, f"{head}.{body}.{signature}")


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "é", "x" * (TOKEN_BYTES_MAX + 1), "eyJ9.e30.", "e30.e30.e30"]
)
async def test_text_that_is_no_token_is_refused(verifier: Verifier, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


@pytest.mark.parametrize("levels", [100, 1_000, 2_500])
async def test_deep_claims_and_headers_are_refused(
    verifier: Verifier, key: TokenKey, levels: int
) -> None:
    """The issuer of a right key may sign any bytes; anybody may send a header."""
    deep = b"[" * levels + b"]" * levels
    header = jwts.encode(json.dumps({"alg": "Ed25519", "kid": key.id}).encode())
    private: Any = key.key.get_op_key("sign")
    text = f"{header}.{jwts.encode(deep)}"
    await refusal(verifier, f"{text}.{jwts.encode(private.sign(text.encode()))}")
    await refusal(verifier, jwts.encode(b'{"kid":' + deep + b"}") + ".e30.x")


@pytest.mark.parametrize("critical", [None, 5, True, 1e300, {}, [5], ["exp"], "b64"])
async def test_a_critical_field_of_any_type_is_refused(
    verifier: Verifier, key: TokenKey, critical: Any
) -> None:
    await refusal(verifier, signed(key, {"crit": critical}))
    other = TokenKey.generate()
    await refusal(verifier, signed(other, {"crit": critical, "kid": key.id}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CLAIM_NAMES = (*CLAIMS, "name", "texts", "unknown")
HEADER_FIELDS = (
    "alg", "typ", "cty", "crit", "b64", "kid", "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256",
    "zip", "enc", "epk", "apu", "p2c", "exp", "unknown",
)  # fmt: skip


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    header=st.dictionaries(st.sampled_from(HEADER_FIELDS), JSON, max_size=3),
    claims=st.dictionaries(st.sampled_from(CLAIM_NAMES), JSON, max_size=3),
    raw=st.none() | JSON,
    is_signed=st.booleans(),
)
def test_json_of_any_types_is_accepted_or_refused(
    verifier: Verifier,
    key: TokenKey,
    header: dict[str, Any],
    claims: dict[str, Any],
    raw: Any,
    is_signed: bool,
) -> None:
    """Anybody may send any header; the issuer of a right key may sign any claims."""
    signer = key if is_signed else TokenKey.generate()
    body = CLAIMS | claims if raw is None else raw
    token = jwts.signed_json(signer, {"alg": "Ed25519", "kid": key.id} | header, body)
    try:
        accepted = anyio.run(verifier.verify, token)
    except Unauthenticated:
        return
    assert is_signed and raw is None
    msgspec.json.encode(accepted)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_keys_of_other_issuers_verify_with_their_own_algorithm(
    algorithm: str, tmp_path: Path
) -> None:
    key: Any = ECKey.generate_key("P-256") if algorithm == "ES256" else RSAKey.generate_key(2_048)
    key.ensure_kid()
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    verifier = Verifier(KeySource(str(file)), now_s=lambda: NOW_S)
    header = {"alg": algorithm, "kid": key.kid}
    assert (await verifier.verify(encode(header, dict(CLAIMS), key, [algorithm]))).sub == "ann"


@pytest.mark.filterwarnings("ignore:Key size:joserfc.errors.SecurityWarning")
def test_weak_private_and_nameless_keys_are_refused() -> None:
    weak: Any = RSAKey.generate_key(1_024)
    weak.ensure_kid()
    public = TokenKey.generate().public()
    for listed, reason in (
        (weak.as_dict(private=False), "2,048 bits"),
        (TokenKey.generate().key.as_dict(private=True), "is private"),
        ({name: part for name, part in public.items() if name != "kid"}, "needs an id"),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "1"}, "has no key"),
        (public | {"alg": "HS256"}, "has no key"),
        (public | {"x": "short"}, "cannot be read"),
    ):
        with pytest.raises(TokenKeyError, match=reason):
            read_public_keys(json.dumps({"keys": [listed]}).encode())


def test_what_is_no_key_set_is_refused() -> None:
    for content in (b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [1]}', b"\xff"):
        with pytest.raises(TokenKeyError):
            read_public_keys(content)


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "root"},
        {"tenant": "a b"},
        {"subject": ""},
        {"subject": "a\nb"},
        {"seconds": 0},
        {"seconds": 86_401},
        {"name": "gpu-"},
        {"role": "node", "name": "gpu 1"},
    ],
)
def test_a_token_of_wrong_claims_is_not_issued(key: TokenKey, wrong: dict[str, Any]) -> None:
    right = {"role": "viewer", "tenant": "acme", "subject": "ann"}
    with pytest.raises(InvalidMessage):
        issue(key, **right | wrong)
