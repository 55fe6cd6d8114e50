"""SNS's PublishBatch as one signed request: botocore's parts, put together for a call that is made all day.

A client of boto3's looks anew at each call for its endpoint, for the shape of every parameter and for its
own name, and encodes the form twice, character by character. Half of a call's processor time went there.
"""

import os
import re
import socket
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.httpsession import URLLib3Session
from botocore.parsers import create_parser
from botocore.utils import get_environ_proxies

from tintype.aws import core_session

if TYPE_CHECKING:  # the stubs are not installed where the service runs
    from botocore.credentials import Credentials
    from botocore.model import Shape
    from botocore.session import Session
    from types_boto3_sns.type_defs import PublishBatchRequestEntryTypeDef, PublishBatchResponseTypeDef

_ACTION = "PublishBatch"
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
_MEMBER = "PublishBatchRequestEntries.member"
_FAILED = 300
_SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))

# RFC 3986, section 2.3: all but the unreserved characters, byte by byte. What JSON is full of is replaced in
# one go for each sign, and nearly always nothing else is left.
_UNRESERVED = string.ascii_letters + string.digits + "-._~"
_PERCENT = [chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in range(256)]
_FREQUENT = tuple((sign, f"%{ord(sign):02X}") for sign in "%\"\\{}:,/ +=@[]()'")
_RESERVED = re.compile(r"[^A-Za-z0-9\-._~]")
_OTHERS = re.compile(r"[^A-Za-z0-9\-._~%]")


@dataclass(frozen=True, slots=True)
class PublishBatch:
    """The call to one topic. Threads may share it."""

    _topic: str
    _region: str
    _url: str
    _agent: str
    _answer: "Shape"
    _credentials: "Credentials | None"
    _http: URLLib3Session

    @classmethod
    def to(cls, topic: str, endpoint: str | None, timeout: float, at_once: int) -> Self:
        """Return the call, to where and as whom a client of boto3's would make it.

        Reads files, and may ask the instance for its role.
        """
        region = topic.split(":")[3]
        session = core_session()
        client = session.create_client("sns", region_name=region, endpoint_url=endpoint)
        shape = client.meta.service_model.operation_model(_ACTION).output_shape
        if shape is None:
            raise LookupError(f"botocore knows no answer of {_ACTION}")
        return cls(
            topic,
            region,
            client.meta.endpoint_url,
            session.user_agent(),
            shape,
            session.get_credentials(),
            _connections(session, client.meta.endpoint_url, timeout, at_once),
        )

    def __call__(self, entries: "Sequence[PublishBatchRequestEntryTypeDef]") -> "PublishBatchResponseTypeDef":
        """Publish up to ten messages, once. Raises what botocore raises, `ClientError` for a refusal."""
        request = AWSRequest(
            "POST",
            self._url,
            headers={"Content-Type": _FORM, "User-Agent": self._agent},
            data=_form(self._topic, entries),
        )
        self._sign(request)
        answer = self._http.send(request.prepare())
        told: dict[str, Any] = create_parser("query").parse(
            {"status_code": answer.status_code, "headers": answer.headers, "body": answer.content},
            self._answer,
        )
        if answer.status_code >= _FAILED:
            raise ClientError(cast("Any", told), _ACTION)
        return cast("PublishBatchResponseTypeDef", told)

    def _sign(self, request: AWSRequest) -> None:
        if self._credentials is None:
            raise NoCredentialsError
        # All three at one moment: those of a role are renewed while others read them.
        SigV4Auth(self._credentials.get_frozen_credentials(), "sns", self._region).add_auth(request)


def _connections(session: "Session", url: str, timeout: float, at_once: int) -> URLLib3Session:
    """Return a pool of connections, with authorities and proxies as boto3 finds them."""
    options: dict[str, Any] = {  # its stubs know neither paths, nor parts of seconds, nor numbers of options
        "verify": session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True,
        "timeout": (min(1, timeout), timeout),
        "socket_options": [*_SOCKET_OPTIONS],
    }
    return URLLib3Session(proxies=get_environ_proxies(url), max_pool_connections=at_once, **options)


def _form(topic: str, entries: "Iterable[PublishBatchRequestEntryTypeDef]") -> bytes:
    """Return the body of AWS's query protocol. The names in it need no encoding."""
    fields = [f"Action={_ACTION}&Version=2010-03-31&TopicArn={_percent_encoded(topic)}"]
    for number, entry in enumerate(entries, 1):
        fields += _fields(f"{_MEMBER}.{number}", entry)
    return "&".join(fields).encode()


def _fields(prefix: str, entry: "PublishBatchRequestEntryTypeDef") -> Iterator[str]:
    for name in ("Id", "Subject", "MessageStructure", "Message"):
        yield f"{prefix}.{name}={_percent_encoded(entry.get(name, ''))}"
    for number, (name, value) in enumerate(entry.get("MessageAttributes", {}).items(), 1):
        attribute = f"{prefix}.MessageAttributes.entry.{number}"
        yield f"{attribute}.Name={_percent_encoded(name)}"
        yield f"{attribute}.Value.DataType={value['DataType']}"
        yield f"{attribute}.Value.StringValue={_percent_encoded(value.get('StringValue', ''))}"


def _percent_encoded(text: str) -> str:
    if _RESERVED.search(text) is None:
        return text
    encoded = text
    for sign, code in _FREQUENT:
        encoded = encoded.replace(sign, code)
    if _OTHERS.search(encoded) is None:
        return encoded
    return text.encode().decode("latin-1").translate(_PERCENT)
