"""A stand-in for SNS that takes every message, counts them at `/count`, and throttles after `/throttle`."""

import re
import sys
import uuid
from urllib.parse import unquote_plus

from tintype_bench.stand_ins.http import Reply, Request, serve

NAMESPACE = "http://sns.amazonaws.com/doc/2010-03-31/"
XML = {"Content-Type": "text/xml"}
ENTRY_ID = re.compile(rb"PublishBatchRequestEntries\.member\.\d+\.Id=([^&]*)")


THROTTLED = Reply(
    status="400 Bad Request",
    headers=XML,
    body=f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type><Code>Throttling</Code>'
    f"<Message>Rate exceeded</Message></Error></ErrorResponse>".encode(),
)


class Topic:
    """Whatever is published, on whatever topic."""

    def __init__(self) -> None:
        self._taken = 0
        self._throttles = False

    def answer(self, request: Request) -> Reply:
        """Take a message, or up to ten, or tell how many there were."""
        if request.path == "/count":
            return Reply(body=str(self._taken).encode())
        if request.path in ("/throttle", "/relent"):
            self._throttles = request.path == "/throttle"
            return Reply()
        if self._throttles:
            return THROTTLED
        if b"Action=PublishBatch" in request.body:
            return self._take_batch(request.body)
        if b"Action=Publish" in request.body:
            self._taken += 1
            return _result("Publish", f"<MessageId>{uuid.uuid4()}</MessageId>")
        return _result("GetTopicAttributes", "<Attributes/>")

    def _take_batch(self, body: bytes) -> Reply:
        ids = [unquote_plus(found.decode()) for found in ENTRY_ID.findall(body)]
        self._taken += len(ids)
        taken = "".join(
            f"<member><Id>{entry}</Id><MessageId>{uuid.uuid4()}</MessageId></member>" for entry in ids
        )
        return _result("PublishBatch", f"<Successful>{taken}</Successful><Failed/>")


def _result(action: str, inner: str) -> Reply:
    body = (
        f'<{action}Response xmlns="{NAMESPACE}"><{action}Result>{inner}</{action}Result>'
        f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Reply(headers=XML, body=body.encode())


if __name__ == "__main__":
    serve(Topic().answer, port=int(sys.argv[1]))
