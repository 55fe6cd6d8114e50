"""An issuer of tokens as a process of its own: a web server that tells its keys, by OpenID discovery."""

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from planted import plant

Key = RSAKey | ECKey | OKPKey | OctKey
AUDIENCE = "tintype-tests"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def rsa(kid: str = "rsa", bits: int = 2048) -> RSAKey:
    return RSAKey.generate_key(bits, {"kid": kid, "use": "sig"})


@dataclass
class Issuer:
    """The issuer: what it says of itself, what it signs, and what it was asked."""

    url: str
    folder: Path
    log: Path
    rsa: RSAKey = field(default_factory=rsa)
    ec: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "ec"}))
    ed: OKPKey = field(default_factory=lambda: OKPKey.generate_key("Ed25519", {"kid": "ed"}))

    def publish(self, *keys: Key, **document: object) -> None:
        """Tell these keys from now on."""
        folder = self.folder / ".well-known"
        folder.mkdir(exist_ok=True)
        told = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks.json", **document}
        (folder / "openid-configuration").write_text(json.dumps(told))
        (self.folder / "jwks.json").write_text(
            json.dumps({"keys": [key.as_dict(private=isinstance(key, OctKey)) for key in keys]})
        )

    def claims(self, **changed: object) -> dict[str, Any]:
        """What a good token says. A claim that is changed to `...` is left out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "user-1", "exp": now + 600, "iat": now}
        both = {**good, "scope": "read write openid", **changed}
        return {name: value for name, value in both.items() if value is not ...}

    def token(
        self,
        claims: dict[str, Any] | bytes | None = None,
        *,
        key: Key | None = None,
        alg: str = "RS256",
        **header: object,
    ) -> str:
        """Sign a token."""
        key = key or self.rsa
        protected = {"alg": alg, "kid": key.kid, "typ": "JWT", **header}
        payload = claims if isinstance(claims, bytes) else json.dumps(claims or self.claims()).encode()
        registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
        told = {name: value for name, value in protected.items() if value is not ...}
        token = jws.serialize_compact(told, payload, key, registry=registry)
        plant(token)
        return token

    def signed(self, header: dict[str, Any]) -> str:
        """A token of the RSA key with any header, which no library would make."""
        text = self.unsigned(header).rpartition(".")[0]
        assert self.rsa.private_key is not None
        return f"{text}.{base64url(self.rsa.private_key.sign(text.encode(), PKCS1v15(), SHA256()))}"

    def unsigned(self, header: dict[str, Any], signature: bytes = b"") -> str:
        """A token with any header and any signature."""
        parts = [json.dumps(header).encode(), json.dumps(self.claims()).encode(), signature]
        return ".".join(base64url(part) for part in parts)

    def fetches(self) -> int:
        """How often the keys were fetched."""
        return self.log.read_text().count("GET /jwks.json")


@contextmanager
def serving(folder: Path) -> Iterator[Issuer]:
    """Start an issuer that serves what is in a folder."""
    pages, log = folder / "issuer", folder / "issuer.log"
    pages.mkdir()
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", pages]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        assert process.stdout is not None
        port = re.search(r"port (\d+)", process.stdout.readline())
        assert port is not None
        yield Issuer(f"http://127.0.0.1:{port[1]}", pages, log)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    """An issuer of the test's own."""
    with serving(tmp_path) as issuer:
        yield issuer
