"""What an instance finds at AWS besides S3: its metadata service, and CloudFormation, which is signalled."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

REGION = "us-east-1"
INSTANCE = "i-0123456789abcdef0"
ROLE = "tintype-instance"


@dataclass(frozen=True)
class Keys:
    """A role's, for an hour."""

    key_id: str
    secret: str
    token: str
    ends: str


@dataclass
class StandIns:
    """Both services at one address; `signals` is what CloudFormation was told, and by whom."""

    url: str
    keys: Keys
    signals: list[dict[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def told(self, path: str) -> str | None:
        """Return what the metadata service says of a path."""
        document = {"instanceId": INSTANCE, "availabilityZone": f"{REGION}a", "region": REGION}
        keys = self.keys
        credentials = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "AccessKeyId": keys.key_id,
            "SecretAccessKey": keys.secret,
            "Token": keys.token,
            "Expiration": keys.ends,
        }
        role = "/latest/meta-data/iam/security-credentials"
        return {
            role: ROLE,
            f"{role}/{ROLE}": json.dumps(credentials),
            "/latest/meta-data/instance-id": INSTANCE,
            "/latest/dynamic/instance-identity/document": json.dumps(document),
        }.get(path.rstrip("/"))


@contextmanager
def standing_in(keys: Keys) -> Iterator[StandIns]:
    """Answer on loopback until the end of the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.stand_ins = StandIns(f"http://127.0.0.1:{server.server_port}", keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.stand_ins
    finally:
        server.shutdown()
        server.server_close()


def why_not(method: str, target: str, headers: dict[str, str], body: bytes, keys: Keys) -> str | None:
    """Return why AWS would refuse a request's signature, version 4; None: it would not.

    IAM User Guide, "Create a signed AWS API request".
    """
    scheme, _, fields = headers.get("authorization", "").partition(" ")
    told = dict(each.strip().split("=", 1) for each in fields.split(",") if "=" in each)
    if scheme != "AWS4-HMAC-SHA256" or told.keys() != {"Credential", "SignedHeaders", "Signature"}:
        return "there is no signature"
    key_id, *scope = told["Credential"].split("/")
    signed = told["SignedHeaders"].split(";")
    if key_id != keys.key_id or headers.get("x-amz-security-token") != keys.token:
        return "nobody knows these keys"
    if not {"host", "x-amz-date", "x-amz-security-token"} <= set(signed):
        return f"only {signed} are signed"
    parts = urlsplit(target)
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in signed]
    payload = hashlib.sha256(body).hexdigest()
    request = [method, parts.path, parts.query, *lines, "", told["SignedHeaders"], payload]
    hashed = hashlib.sha256("\n".join(request).encode()).hexdigest()
    key = f"AWS4{keys.secret}".encode()
    for each in scope:
        key = hmac.digest(key, each.encode(), "sha256")
    wanted = "\n".join([scheme, headers["x-amz-date"], "/".join(scope), hashed])
    if hmac.digest(key, wanted.encode(), "sha256").hex() != told["Signature"]:
        return "the signature does not match"
    return None


class _Server(ThreadingHTTPServer):
    stand_ins: StandIns


class _Handler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        wants = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self._answer(200, "a-token") if wants else self._answer(400, "")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
            self._answer(401, "")
            return
        found = self._stand_ins.told(self.path)
        self._answer(404 if found is None else 200, found or "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reason = why_not("POST", self.path, headers, body, self._stand_ins.keys)
        if reason is not None:
            self._stand_ins.refused.append(reason)
            self._answer(403, reason)
            return
        self._stand_ins.signals.append({name: values[0] for name, values in parse_qs(body.decode()).items()})
        self._answer(200, "<SignalResourceResponse/>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # as the base class has it
        """Tell nothing."""

    @property
    def _stand_ins(self) -> StandIns:
        assert isinstance(self.server, _Server)
        return self.server.stand_ins

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        # Asked for by botocore's client of the metadata service.
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body)
