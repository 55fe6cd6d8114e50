"""Logs and metrics: one form for every line, nothing secret in any, and no surprise that stops one."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import orjson
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripted_sns import ScriptedSns
from tintype.settings import LogSettings
from tintype.telemetry import Metrics, configure_logs, get_logger, guard

PLANTED = "pl4nted-s3cret"


class Log:
    """A stream that was configured, and what arrived in it."""

    def __init__(self, **changes: object) -> None:
        self.bytes = io.BytesIO()
        self.stream = io.TextIOWrapper(self.bytes, write_through=True)
        configure_logs(LogSettings.model_validate({"format": "json"} | changes), self.stream)

    @property
    def text(self) -> str:
        return self.bytes.getvalue().decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (only,) = self.lines
        return only


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # out of reach of what closes those it replaces
    yield
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def test_a_line_is_one_json_object_with_a_name_a_level_and_a_time_in_utc() -> None:
    log = Log()

    get_logger().info("image.stored", bytes=5, protocol="raw")

    line = log.line
    time = datetime.fromisoformat(line.pop("timestamp"))
    assert time.utcoffset() == timedelta(0)
    assert line == {"event": "image.stored", "level": "info", "bytes": 5, "protocol": "raw"}


def test_what_is_bound_to_the_context_is_in_every_line_of_it() -> None:
    log = Log()

    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        get_logger().info("first")
        logging.getLogger("psycopg").warning("second")
    get_logger().info("third")

    assert [line.get("request_id") for line in log.lines] == ["r-1", "r-1", None]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["bytes", "reason", "owner", "api_key", "fields"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False)
            | st.text(max_size=400)
            | st.binary(max_size=5)
            | st.datetimes()
            | st.uuids()
            | st.sampled_from(
                ["a" * 200, "a" * 201, "Bearer abcdefgh", "a?b=c", "x\x7fy", "tt_abcdefghijkl_m"]
            ),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_a_line_says_what_its_guard_lets_through_however_harmless_it_looks(fields: dict[str, Any]) -> None:
    log = Log()

    get_logger().info("happened", **fields)

    line = log.line
    del line["timestamp"], line["level"]
    assert line == orjson.loads(orjson.dumps(guard(None, "info", {"event": "happened"} | fields)))


def test_lines_below_the_level_are_not_written() -> None:
    log = Log(level="warning")

    get_logger().info("quiet")
    logging.getLogger("uvicorn").info("quiet")
    get_logger().warning("loud")

    assert log.line["event"] == "loud"


def test_the_standard_librarys_lines_have_the_same_form_and_the_name_of_their_logger() -> None:
    log = Log()

    logging.getLogger("uvicorn.error").error("Port %d is taken", 8000)

    line = log.line
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "Port 8000 is taken", "level": "error", "logger": "uvicorn.error"}


@pytest.mark.parametrize("level", [1, 25, 35, 99])
def test_levels_of_other_peoples_invention_are_no_trouble(level: int) -> None:
    log = Log(level="debug")
    logging.getLogger("strange").setLevel(1)

    logging.getLogger("strange").log(level, "said")

    assert log.line["level"] in {"debug", "info", "warning", "error", "critical"}


def test_warnings_are_logged() -> None:
    log = Log()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("an old way", DeprecationWarning, stacklevel=1)

    assert log.line["logger"] == "py.warnings"


def test_an_exception_is_in_its_line_with_its_trace_and_without_its_variables() -> None:
    log = Log()

    def fail(token: str) -> None:
        raise RuntimeError(f"what happened to {len(token)} characters")

    try:
        fail(PLANTED)
    except RuntimeError:
        get_logger().exception("request.failed")
        logging.getLogger("uvicorn.error").exception("Exception in application")

    for line in log.lines:
        assert line["exception"].endswith("RuntimeError: what happened to 14 characters")
        assert "in fail" in line["exception"]
    assert PLANTED not in log.text


def test_a_strangers_text_is_cut() -> None:
    log = Log()

    get_logger().info("refused", filename="x" * 5000, nested={"name": ["y" * 5000]})

    assert log.line["filename"] == "x" * 200 + "…"
    assert log.line["nested"] == {"name": ["y" * 200 + "…"]}


def test_a_strangers_control_characters_are_shown_and_not_obeyed() -> None:
    for kind in ("json", "console"):
        log = Log(format=kind)
        get_logger().info("refused", filename="a\x1b[2Jb\r\nc\u202ed\ud800")
        assert r"a\x1b[2Jb\r\nc\u202ed\ud800" in log.text.replace(r"\\", "\\")
        assert len(log.text.splitlines()) == 1


@pytest.mark.parametrize(
    "value",
    [
        UUID(int=1),
        Path("/data"),
        {1, 2},
        b"bytes",
        float("nan"),
        10**30,
        object(),
        {1: {2: {3: {4: {5: 6}}}}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_value_can_be_logged(value: object) -> None:
    log = Log()

    get_logger().info("odd", value=value)

    assert log.line["event"] == "odd"


def test_bytes_are_counted_and_not_written() -> None:
    log = Log()

    get_logger().info("body", start=PLANTED.encode())

    assert log.line["start"] == "(14 bytes)"


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": PLANTED},
        {"Cookie": PLANTED},
        {"set-cookie": f"session={PLANTED}"},
        {"signature": PLANTED},
        {"X-Amz-Signature": PLANTED},
        {"secret_access_key": PLANTED},
        {"db_password": PLANTED},
        {"session_token": PLANTED},
        {"api_key": PLANTED},
        {"headers": {"Authorization": PLANTED}},
        {"headers": [{"COOKIE": PLANTED}]},
        {"scope": f"(b'authorization', b'Basic {PLANTED}'), (b'cookie', b'a=1; b={PLANTED}')"},
        {"url": f"https://host/path?X-Amz-Credential=a&X-Amz-Signature={PLANTED}"},
        {"path": f"/v1/images/1/content?expires=1&signature={PLANTED}"},
        {"dsn": f"postgresql://tintype:{PLANTED}@host/db"},
        {"dsn": f"host=db user=tintype password={PLANTED} dbname=t"},
        {"said": f"Authorization: Bearer {PLANTED}"},
        {"said": f"authorization: AWS4-HMAC-SHA256 Credential=AKIA/x, Signature={PLANTED}"},
        {"said": f"the header was Bearer {PLANTED}"},
        {"said": f"'Cookie': 'a=1; b={PLANTED}'"},
        {"said": f'{{"aws_secret_access_key": "{PLANTED}"}}'},
        {"long": "x" * 190 + f" postgresql://tintype:{PLANTED}@host/db"},
    ],
    ids=str,
)
def test_planted_secrets_never_appear(fields: dict[str, object]) -> None:
    for kind in ("json", "console"):
        log = Log(format=kind)
        get_logger().warning("a.line", **fields)
        logging.getLogger("library").warning("fields: %s", fields)
        get_logger().error("an.error", exc_info=RuntimeError(str(fields)))
        assert len(log.text) > 100
        assert PLANTED not in log.text


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(around=st.text(), value=json_like, nesting=st.integers(0, 6))
def test_wherever_a_secret_is_planted_the_line_is_written_without_it(
    around: str, value: object, nesting: int
) -> None:
    log = Log()
    field: object = {"token": PLANTED, f"{around}password": [PLANTED, value], "of": value}
    for _ in range(nesting):
        field = [field, value]

    get_logger().info("a.line", field=field, url=f"{around}https://host/?{around}signature={PLANTED}")

    assert log.line["event"] == "a.line"
    assert PLANTED not in log.text


def test_the_aws_clients_own_logs_do_not_show_what_signs_requests(
    scripted: ScriptedSns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    log = Log(level="debug")

    client = boto3.client("sns", region_name="eu-west-1", endpoint_url=scripted.url)
    client.publish_batch(
        TopicArn="arn:aws:sns:eu-west-1:1:t", PublishBatchRequestEntries=[{"Id": "1", "Message": "m"}]
    )

    assert len(scripted.calls) == 1
    assert PLANTED not in log.text
    assert "StringToSign" not in log.text


def test_the_console_is_for_people_and_json_for_everything_else() -> None:
    log = Log(format="console")
    get_logger().info("image.stored", bytes=5)
    assert "image.stored" in log.text
    assert "bytes=5" in log.text

    assert Log(format="auto").text == ""
    log = Log(format="auto")  # not a terminal
    get_logger().info("image.stored", bytes=5)
    assert log.line["bytes"] == 5


def test_metrics_of_two_instances_do_not_mix() -> None:
    one, other = Metrics(), Metrics()

    one.duplicates.inc()

    assert b"tintype_duplicates_total 1.0" in one.render()
    assert b"tintype_duplicates_total 0.0" in other.render()


def test_everything_that_is_counted_can_be_scraped() -> None:
    metrics = Metrics()
    metrics.requests.labels("/v1/images", "POST", "201").inc()
    metrics.request_seconds.labels("/v1/images", "POST").observe(0.02)
    metrics.uploads.labels("raw", "stored", "jpeg").inc()
    metrics.stored_bytes.inc(1000)
    metrics.decoder_kills.labels("time").inc()
    metrics.in_flight_bytes.set(5)
    metrics.events_published.inc(3)
    metrics.events_refused.inc()
    metrics.outbox_oldest_seconds.set(1.5)

    text = metrics.render().decode()

    for sample in (
        'tintype_requests_total{method="POST",route="/v1/images",status="201"} 1.0',
        'tintype_request_seconds_count{method="POST",route="/v1/images"} 1.0',
        'tintype_uploads_total{format="jpeg",outcome="stored",protocol="raw"} 1.0',
        "tintype_stored_bytes_total 1000.0",
        'tintype_decoder_kills_total{reason="time"} 1.0',
        "tintype_in_flight_bytes 5.0",
        "tintype_events_published_total 3.0",
        "tintype_events_refused_total 1.0",
        "tintype_outbox_oldest_seconds 1.5",
        "process_resident_memory_bytes",
    ):
        assert sample in text


def test_a_stage_is_measured_also_when_it_fails() -> None:
    metrics = Metrics()

    with pytest.raises(OSError, match="full"), metrics.stage("put"):
        raise OSError("full")

    assert 'tintype_stage_seconds_count{stage="put"} 1.0' in metrics.render().decode()
