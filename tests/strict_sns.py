"""An SNS that takes agreement seriously, as AWS's does and moto does not: mails are pending first."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import pytest

from tintype.settings import EventsSettings

TOPIC = "arn:aws:sns:eu-central-1:123456789012:uploads"
PAGE = 2
"""AWS lists a hundred at a time; pages are the same thing sooner."""

Call = dict[str, str]


@dataclass
class Listener:
    """A subscription of the topic."""

    arn: str
    protocol: str
    endpoint: str
    pending: bool
    attributes: dict[str, str]
    asked: int = 1
    authenticated: bool = False

    @property
    def policy(self) -> dict[str, object]:
        return json.loads(self.attributes["FilterPolicy"])

    @property
    def token(self) -> str:
        return f"{int(self.arn.rpartition('-')[2]):064x}"


@dataclass
class StrictSns:
    """`calls` are what it was asked; `refuse` fails calls before they do anything."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    listeners: dict[str, Listener] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)
    refuse: Callable[[Call], tuple[int, str, str] | None] = lambda _call: None
    made: int = 0

    @property
    def settings(self) -> EventsSettings:
        return EventsSettings(topic_arn=TOPIC, endpoint=self.url)

    def actions(self) -> list[str]:
        return [call["Action"] for call in self.calls]

    def of(self, endpoint: str) -> Listener:
        return next(each for each in self.listeners.values() if each.endpoint == endpoint)

    def click(self, endpoint: str) -> None:
        """Follow the link in SNS's mail, as a person does."""
        self.of(endpoint).pending = False

    def leave(self, endpoint: str) -> None:
        """Follow the link at the end of each of SNS's mails."""
        del self.listeners[self.of(endpoint).arn]

    def answer(self, call: Call) -> tuple[int, str]:
        self.calls.append(call)
        refusal = self.refuse(call)
        if refusal is not None:
            return failed(*refusal)
        try:
            told = getattr(self, f"do_{call['Action'].lower()}")(call)
        except Refused as error:
            return failed(400, *error.args)
        name = call["Action"]
        return 200, f"<{name}Response><{name}Result>{told}</{name}Result></{name}Response>"

    def do_subscribe(self, call: Call) -> str:
        attributes = attributes_of(call)
        known = [
            each
            for each in self.listeners.values()
            if (each.protocol, each.endpoint) == (call["Protocol"], call["Endpoint"])
        ]
        if known:
            listener = known[0]
            if attributes and attributes != listener.attributes:
                raise Refused(
                    "InvalidParameter",
                    "Invalid parameter: Attributes Reason: "
                    "Subscription already exists with different attributes",
                )
            listener.asked += listener.pending
        else:
            self.made += 1
            arn = f"{TOPIC}:00000000-{self.made}"
            pending = call["Protocol"] == "email"
            listener = Listener(arn, call["Protocol"], call["Endpoint"], pending, attributes)
            self.listeners[arn] = listener
        return f"<SubscriptionArn>{listener.arn}</SubscriptionArn>"

    def do_getsubscriptionattributes(self, call: Call) -> str:
        listener = self._found(call)
        told = {"PendingConfirmation": str(listener.pending).lower(), **listener.attributes}
        entries = "".join(
            f"<entry><key>{key}</key><value>{escape(value)}</value></entry>" for key, value in told.items()
        )
        return f"<Attributes>{entries}</Attributes>"

    def do_setsubscriptionattributes(self, call: Call) -> str:
        self._found(call).attributes[call["AttributeName"]] = call["AttributeValue"]
        return ""

    def do_listsubscriptionsbytopic(self, call: Call) -> str:
        start = int(call.get("NextToken", "0"))
        listed = list(self.listeners.values())[start : start + PAGE]
        members = "".join(
            "<member><SubscriptionArn>"
            f"{'PendingConfirmation' if each.pending else each.arn}</SubscriptionArn>"
            f"<Protocol>{each.protocol}</Protocol><Endpoint>{escape(each.endpoint)}</Endpoint></member>"
            for each in listed
        )
        more = f"<NextToken>{start + PAGE}</NextToken>" if start + PAGE < len(self.listeners) else ""
        return f"<Subscriptions>{members}</Subscriptions>{more}"

    def do_confirmsubscription(self, call: Call) -> str:
        for each in self.listeners.values():
            if each.token == call["Token"]:
                each.pending = False
                each.authenticated = call.get("AuthenticateOnUnsubscribe") == "true"
                return f"<SubscriptionArn>{each.arn}</SubscriptionArn>"
        raise Refused("InvalidParameter", "Invalid parameter: Invalid token")

    def do_unsubscribe(self, call: Call) -> str:
        if call["SubscriptionArn"] in self.listeners:
            if self._found(call).pending:
                raise Refused("InvalidParameter", "Invalid parameter: SubscriptionArn Reason: pending")
            del self.listeners[call["SubscriptionArn"]]
        return ""

    def do_publish(self, call: Call) -> str:
        self.texts.append((call["PhoneNumber"], call["Message"]))
        return "<MessageId>m</MessageId>"

    def _found(self, call: Call) -> Listener:
        listener = self.listeners.get(call["SubscriptionArn"])
        if listener is None:
            raise Refused("NotFound", "Subscription does not exist")
        return listener


class Refused(Exception):
    """A code and a sentence."""


def attributes_of(call: Call) -> dict[str, str]:
    found: dict[str, str] = {}
    while (entry := f"Attributes.entry.{len(found) + 1}") + ".key" in call:
        found[call[f"{entry}.key"]] = call[f"{entry}.value"]
    return found


def failed(status: int, code: str, text: str) -> tuple[int, str]:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(text)}</Message></Error>"
    return status, f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"


@pytest.fixture
def strict_sns(aws_credentials: None) -> Iterator[StrictSns]:  # noqa: ARG001 # sets the environment
    state = StrictSns()
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with turn:
                status, text = state.answer({name: values[0] for name, values in parse_qs(body).items()})
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
