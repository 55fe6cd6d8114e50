"""JWTs: whom they stand for, and every way to forge one; the issuer is a process that tells its keys."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey

from issuer import AUDIENCE, Issuer, base64url, rsa
from tintype.identity.issuers import Issuers
from tintype.identity.key_sets import KeySet
from tintype.model.errors import IssuerUnavailable, KeyExpired, TintypeError, Unauthenticated
from tintype.model.identity import Scope
from tintype.settings import IdentitySettings, IssuerSettings

Forge = Callable[[Issuer], str]


def settings(issuer: Issuer, **more: Any) -> IssuerSettings:  # noqa: ANN401 # any field of the settings
    given = {"url": issuer.url, "audience": AUDIENCE, "algorithms": ["RS256", "ES256", "EdDSA"]}
    return IssuerSettings.model_validate(given | more)


@pytest.fixture
def issuers(issuer: Issuer) -> Issuers:
    issuer.publish(issuer.rsa, issuer.ec, issuer.ed)
    return Issuers.of((settings(issuer),))


async def test_a_token_tells_its_owner_and_scopes(issuer: Issuer, issuers: Issuers) -> None:
    for key, alg in ((issuer.rsa, "RS256"), (issuer.ec, "ES256"), (issuer.ed, "EdDSA")):
        principal = await issuers.principal(issuer.token(key=key, alg=alg))
        assert (principal.owner, principal.kind, principal.key_id) == ("user-1", "jwt", "user-1")
        assert principal.scopes == {Scope.READ, Scope.WRITE}
    assert issuer.fetches() == 1


GOOD: dict[str, Forge] = {
    "an audience among several": lambda i: i.token(i.claims(aud=["other", AUDIENCE])),
    "typ at+jwt": lambda i: i.token(typ="at+jwt"),
    "no typ": lambda i: i.token(typ=...),
    "a harmless header": lambda i: i.token(x5t="abc"),
    "no iat": lambda i: i.token(i.claims(iat=...)),
    "within the leeway after its end": lambda i: i.token(i.claims(exp=int(time.time()) - 30)),
    "within the leeway before its begin": lambda i: i.token(i.claims(nbf=int(time.time()) + 30)),
    "a day": lambda i: i.token(i.claims(exp=int(time.time()) + 86_400)),
    "a fraction of a second": lambda i: i.token(i.claims(exp=time.time() + 100.5)),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_token_is_accepted(issuer: Issuer, issuers: Issuers, name: str) -> None:
    assert (await issuers.principal(GOOD[name](issuer))).owner == "user-1"


def resigned_with_the_public_key(issuer: Issuer) -> str:
    """HS256, with the public key as the secret: what a lenient reader takes for the issuer's."""
    text = issuer.unsigned({"alg": "HS256", "kid": "rsa"}).rpartition(".")[0]
    secret = issuer.rsa.as_pem(private=False)
    return f"{text}.{base64url(hmac.digest(secret, text.encode(), 'sha256'))}"


def lenient(issuer: Issuer) -> str:
    """The same token in the other alphabet of Base64, padded, in lines."""
    parts = issuer.token().split(".")
    decoded = [base64.urlsafe_b64decode(part + "==") for part in parts]
    return ".".join(base64.encodebytes(part).decode() for part in decoded)


def altered(issuer: Issuer, **claims: object) -> str:
    header, _, signature = issuer.token().split(".")
    return f"{header}.{base64url(json.dumps(issuer.claims(**claims)).encode())}.{signature}"


def json_with(issuer: Issuer, more: str) -> bytes:
    return (json.dumps(issuer.claims())[:-1] + more + "}").encode()


BAD: dict[str, Forge] = {
    "alg none": lambda i: i.unsigned({"alg": "none", "typ": "JWT"}),
    "alg None": lambda i: i.unsigned({"alg": "None", "kid": "rsa"}, b"x"),
    "alg none with a signature": lambda i: i.unsigned({"alg": "none", "kid": "rsa"}, b"x" * 256),
    "no alg": lambda i: i.unsigned({"kid": "rsa"}, b"x" * 256),
    "alg of another type": lambda i: i.signed({"alg": ["RS256"], "kid": "rsa"}),
    "HS256 with the public key": resigned_with_the_public_key,
    "HS256 with nothing": lambda i: i.token(key=OctKey.import_key(b"\0"), alg="HS256", kid="rsa"),
    "RS512, not configured": lambda i: i.token(alg="RS512"),
    "PS256, not configured": lambda i: i.token(alg="PS256"),
    "ES256 by the id of an RSA key": lambda i: i.token(key=i.ec, alg="ES256", kid="rsa"),
    "RS256 by the id of an EC key": lambda i: i.token(kid="ec"),
    "another one's key": lambda i: i.token(key=rsa()),
    "a zero signature": lambda i: i.unsigned({"alg": "ES256", "kid": "ec"}, bytes(64)),
    "a short signature": lambda i: i.unsigned({"alg": "ES256", "kid": "ec"}, b"\x01"),
    "a truncated signature": lambda i: i.token()[:-10],
    "no signature": lambda i: i.token().rpartition(".")[0] + ".",
    "other claims": lambda i: altered(i, sub="user-2"),
    "kid as a path": lambda i: i.token(kid="../../dev/null"),
    "kid as SQL": lambda i: i.token(kid="' OR 1=1 --"),
    "kid of another type": lambda i: i.signed({"alg": "RS256", "kid": {"a": 1}}),
    "an unknown kid": lambda i: i.token(kid="new"),
    "no kid where there are several keys": lambda i: i.token(kid=...),
    "jku": lambda i: i.token(jku=f"{i.url}/jwks.json"),
    "jwk": lambda i: i.token(key=(own := rsa()), jwk=own.as_dict(private=False)),
    "x5u": lambda i: i.token(x5u="https://evil.example/c.pem"),
    "x5c": lambda i: i.token(x5c=["MIIB"]),
    "crit": lambda i: i.signed({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}),
    "zip": lambda i: i.token(zip="DEF"),
    "typ of an ID token's kin": lambda i: i.token(typ="dpop+jwt"),
    "typ of another type": lambda i: i.signed({"alg": "RS256", "kid": "rsa", "typ": 1}),
    "an ID token": lambda i: i.token(i.claims(nonce="n")),
    "Cognito's ID token": lambda i: i.token(i.claims(token_use="id")),  # noqa: S106 # a claim
    "no exp": lambda i: i.token(i.claims(exp=...)),
    "exp as text": lambda i: i.token(i.claims(exp="9999999999")),
    "exp as truth": lambda i: i.token(i.claims(exp=True)),
    "exp for ever": lambda i: i.token(i.claims(exp=int(time.time()) + 90_000)),
    "exp infinite": lambda i: i.token(json_with(i, ', "x": 1').replace(b'"exp": ', b'"exp": 1e999, "y": ')),
    "NaN": lambda i: i.token(json_with(i, ', "x": NaN')),
    "exp twice": lambda i: i.token(json_with(i, ', "exp": 9999999999')),
    "nbf in the future": lambda i: i.token(i.claims(nbf=int(time.time()) + 120)),
    "iat in the future": lambda i: i.token(i.claims(iat=int(time.time()) + 120)),
    "no aud": lambda i: i.token(i.claims(aud=...)),
    "another aud": lambda i: i.token(i.claims(aud="other")),
    "aud in another case": lambda i: i.token(i.claims(aud=AUDIENCE.upper())),
    "aud as an object": lambda i: i.token(i.claims(aud={AUDIENCE: True})),
    "no iss": lambda i: i.token(i.claims(iss=...)),
    "iss with a slash": lambda i: i.token(i.claims(iss=i.url + "/")),
    "iss as a list": lambda i: i.token(i.claims(iss=[i.url])),
    "another iss": lambda i: i.token(i.claims(iss="https://evil.example")),
    "sub empty": lambda i: i.token(i.claims(sub="")),
    "no sub": lambda i: i.token(i.claims(sub=...)),
    "sub as a number": lambda i: i.token(i.claims(sub=1)),
    "sub that is no owner": lambda i: i.token(i.claims(sub="a\nb")),
    "claims as a list": lambda i: i.token(b"[]"),
    "claims that are no JSON": lambda i: i.token(b"{"),
    "claims nested without end": lambda i: i.token(b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    "lenient Base64": lenient,
    "padding": lambda i: i.token() + "==",
    "a space": lambda i: i.token() + " ",
    "two parts": lambda i: i.token().rpartition(".")[0],
    "five parts, a JWE": lambda i: i.token() + ".a.b",
    "too long": lambda i: i.token(i.claims(more="x" * 9000)),
    "other letters": lambda _: "eyJ\u00e9.\u00e9.\u00e9",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_forged_token_is_refused(issuer: Issuer, issuers: Issuers, name: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await issuers.principal(BAD[name](issuer))
    assert str(refused.value) == "The token is not one that this service accepts."
    assert not isinstance(refused.value, KeyExpired)


async def test_a_token_that_is_signed_by_hand_is_good_too(issuer: Issuer, issuers: Issuers) -> None:
    """So the headers of the forgeries above are what is refused, and not their signatures."""
    assert (await issuers.principal(issuer.signed({"alg": "RS256", "kid": "rsa"}))).owner == "user-1"


async def test_an_expired_token_is_told_so(issuer: Issuer, issuers: Issuers) -> None:
    with pytest.raises(KeyExpired):
        await issuers.principal(issuer.token(issuer.claims(exp=int(time.time()) - 61)))


async def test_owner_and_scopes_come_from_the_configured_claims(issuer: Issuer) -> None:
    issuer.publish(issuer.rsa)
    configured = settings(
        issuer,
        owner_claim="tenant",
        owner_prefix="acme:",
        scopes_claim="groups",
        scopes_prefix="tintype-",
        audience_claim="client_id",
    )
    issuers = Issuers.of((configured,))
    claims = issuer.claims(
        tenant="shop", groups=["tintype-admin", "staff", 1], aud=..., client_id=AUDIENCE, owner="bert"
    )
    principal = await issuers.principal(issuer.token(claims))
    assert (principal.owner, principal.scopes) == ("acme:shop", {Scope.ADMIN})
    for wrong in (..., "", ["shop"], {"a": 1}, "a b"):
        with pytest.raises(Unauthenticated):
            await issuers.principal(issuer.token(claims | {"tenant": wrong} if wrong is not ... else None))


async def test_a_shared_secret_among_the_keys_verifies_nothing(issuer: Issuer, issuers: Issuers) -> None:
    secret = OctKey.import_key(b"s" * 32, {"kid": "secret"})
    issuer.publish(issuer.rsa, secret)
    with pytest.raises(Unauthenticated):
        await issuers.principal(issuer.token(key=secret, alg="HS256"))


async def test_a_weak_or_strange_key_verifies_nothing(issuer: Issuer, issuers: Issuers) -> None:
    weak, other = rsa("weak", 1024), ECKey.generate_key("P-384", {"kid": "p384"})
    issuer.publish(weak, other)
    for token in (issuer.token(key=weak), issuer.unsigned({"alg": "ES256", "kid": "p384"}, bytes(96))):
        with pytest.raises(Unauthenticated):
            await issuers.principal(token)


async def test_unknown_keys_make_us_ask_the_issuer_once_a_minute(issuer: Issuer, issuers: Issuers) -> None:
    await issuers.principal(issuer.token())
    forged = [issuer.token(kid=f"new-{number}") for number in range(20)]
    answers = await asyncio.gather(*(issuers.principal(each) for each in forged), return_exceptions=True)
    assert {type(each) for each in answers} == {Unauthenticated}
    assert issuer.fetches() == 1, "it was asked a moment ago"


async def test_a_new_key_of_the_issuer_s_is_found(issuer: Issuer) -> None:
    issuer.publish(issuer.rsa)
    keys = KeySet(settings(issuer), unknown_key_seconds=60)
    issuers = Issuers({issuer.url: keys})
    await issuers.principal(issuer.token())
    new = rsa("new")
    issuer.publish(issuer.rsa, new)
    with pytest.raises(Unauthenticated):
        await issuers.principal(issuer.token(key=new))
    keys.unknown_key_seconds = 0
    answers = await asyncio.gather(*(issuers.principal(issuer.token(key=new)) for _ in range(10)))
    assert {each.owner for each in answers} == {"user-1"}
    assert issuer.fetches() == 2, "one for all"


async def test_a_key_that_the_issuer_took_back_is_refused(issuer: Issuer) -> None:
    issuer.publish(issuer.rsa, issuer.ec)
    keys = KeySet(settings(issuer), unknown_key_seconds=0, fresh_seconds=0)
    issuers = Issuers({issuer.url: keys})
    await issuers.principal(issuer.token())
    issuer.publish(issuer.ec)
    with pytest.raises(Unauthenticated):
        await issuers.principal(issuer.token(issuer.claims(jti="another token")))


async def test_known_keys_serve_while_the_issuer_is_away(issuer: Issuer) -> None:
    issuer.publish(issuer.rsa)
    keys = KeySet(settings(issuer), fresh_seconds=0, unknown_key_seconds=0)
    issuers = Issuers({issuer.url: keys})
    await issuers.principal(issuer.token())
    (issuer.folder / "jwks.json").unlink()
    assert (await issuers.principal(issuer.token(issuer.claims(jti="another token")))).owner == "user-1"


def too_much(folder: Path) -> None:
    (folder / "jwks.json").write_bytes(b'{"keys": [' + b" " * 300_000 + b"]}")


def not_json(folder: Path) -> None:
    (folder / "jwks.json").write_text("<html>")


def no_keys(folder: Path) -> None:
    (folder / "jwks.json").write_text('{"keys": {}}')


def a_list(folder: Path) -> None:
    (folder / "jwks.json").write_text("[]")


def nesting(folder: Path) -> None:
    (folder / "jwks.json").write_text('{"keys": ' + "[" * 100_000)


def a_redirect(folder: Path) -> None:
    """http.server leads from a folder without a slash to the one with it."""
    (folder / "jwks.json").unlink()
    (folder / "jwks.json").mkdir()


@pytest.mark.parametrize("fail", [too_much, not_json, no_keys, a_list, nesting, a_redirect])
async def test_an_issuer_that_makes_no_sense_is_unavailable(
    issuer: Issuer, issuers: Issuers, fail: Callable[[Path], None]
) -> None:
    fail(issuer.folder)
    for _ in range(2):
        with pytest.raises(IssuerUnavailable):
            await issuers.principal(issuer.token())
    assert issuer.fetches() == 1, "it is not asked again at once"


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"jwks_uri": 1},
        {"jwks_uri": "http://evil.example/jwks.json"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "ftp://127.0.0.1/x"},
        {"jwks_uri": ""},
    ],
)
async def test_a_document_that_leads_elsewhere_is_not_followed(
    issuer: Issuer, issuers: Issuers, document: dict[str, object]
) -> None:
    issuer.publish(issuer.rsa, **document)
    with pytest.raises(IssuerUnavailable):
        await issuers.principal(issuer.token())


async def test_the_keys_of_an_issuer_without_discovery_are_where_the_settings_say(issuer: Issuer) -> None:
    issuer.publish(issuer.rsa, issuer="https://other.example")
    issuers = Issuers.of((settings(issuer, jwks_url=f"{issuer.url}/jwks.json"),))
    assert (await issuers.principal(issuer.token(kid=...))).owner == "user-1"


async def test_a_known_token_is_not_verified_again(issuer: Issuer, issuers: Issuers) -> None:
    token = issuer.token()
    first = await issuers.principal(token)
    issuers.key_sets.clear()
    assert await issuers.principal(token) is first
    with pytest.raises(TintypeError):
        await issuers.principal(token + "A")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"issuers": [{"url": "https://a.example", "audience": "x"}]}, "issuers need `mode`"),
        ({"mode": "keys", "issuers": [{"url": "http://a.example", "audience": "x"}]}, "reached by https"),
        ({"mode": "keys", "issuers": [{"url": "https://a.example", "audience": ""}]}, "audience"),
        (
            {
                "mode": "keys",
                "issuers": [
                    {"url": "https://a.example", "audience": "x", "owner_prefix": "a"},
                    {"url": "https://b.example", "audience": "x", "owner_prefix": "a:"},
                ],
            },
            "owner_prefix",
        ),
        (
            {
                "mode": "keys",
                "issuers": [{"url": "https://a.example", "audience": "x", "algorithms": ["none"]}],
            },
            "algorithms",
        ),
    ],
)
def test_settings_that_would_let_strangers_in_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        IdentitySettings.model_validate(given)
