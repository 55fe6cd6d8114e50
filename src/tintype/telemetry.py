"""What the service says of itself: log lines, one for each event, and metrics.

A line has a stable `event` name, a `level`, a UTC `timestamp` (RFC 3339), and fields. What comes
from outside is a field. Every field is cut, escaped and freed of secrets here, so that no caller
has to remember it. What all lines of one request share, such as `request_id`, is bound with
`structlog.contextvars`.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, TextIO, cast

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.context_managers import Timer
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from tintype.settings import LogSettings

MAX_TEXT = 200
"""Characters of a field: a stranger's text does not fill the log."""

MAX_TRACE = 8_000
"""Characters of an exception's trace, whose end says most."""

MAX_NESTING = 4
"""Levels of fields within fields; deeper ones are left out."""

MAX_INTEGER_BITS = 63
"""Larger integers are no JSON for most readers; they are written as hexadecimal text."""

REDACTED = "[redacted]"

_SECRETS = r"authorization|cookie|credential|passw(?:or)?d|secret|signature|token|api[_-]?key"
_SECRET_NAME = re.compile(_SECRETS, re.IGNORECASE)
# One of these is in every text that a pattern below matches; to look for them costs a fifth of the patterns.
_SIGNS = (
    *("authorization", "cookie", "credential", "passw", "secret", "signature", "token", "api"),
    *("bearer", "basic", "?", "@", "tt_", "tut_", "eyj"),
)

# Secrets within texts that were composed elsewhere: headers to the end of their line, `password=x`,
# `Bearer x`, the query of a URL (which can hold a signature), `//user:password@host`, and our own keys
# and tokens, and JWTs, wherever they stand.
_SECRET_TEXTS = (
    (re.compile(r"((?:authorization|cookie)[\"']?\s*[:=,]).*", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(rf"((?:{_SECRETS})[\w-]{{0,40}}[\"']?\s*[:=]\s*)\S+", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\?[^\s?\"'<>]*=[^\s\"'<>]*"), f"?{REDACTED}"),
    (re.compile(r"//[^\s/@\"'<>]+@"), f"//{REDACTED}@"),
    (re.compile(r"tt_[0-9a-z]{12}_\w+|tut_[\w-]+\.?[\w-]*"), REDACTED),
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*"), REDACTED),
)

_NESTED = (list, tuple, set, frozenset, Mapping)

# Below warnings these print requests with their signatures, or much that nobody reads.
_QUIET = ("asyncio", "boto3", "botocore", "httpcore", "httpx", "urllib3", "uvicorn.error")


def get_logger() -> FilteringBoundLogger:
    """Return a logger. It looks for its configuration at its first line, so a module may hold one."""
    return cast("FilteringBoundLogger", structlog.get_logger())


def configure_logs(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all lines, the standard library's too, to one stream in one form; unset: standard error.

    Call it once, before the first line. Start uvicorn with `log_config=None`, or it undoes this.
    """
    stream = cast("TextIO", stream or sys.stderr)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    if settings.format == "console" or (settings.format == "auto" and stream.isatty()):
        forms: tuple[Processor, ...] = (guard, structlog.dev.ConsoleRenderer(colors=stream.isatty()))
        factory: Callable[..., WrappedLogger] = structlog.PrintLoggerFactory(stream)
    else:
        forms, factory = (_as_json,), structlog.BytesLoggerFactory(stream.buffer)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *forms,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Adopted()], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def guard(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Return the line fit for a log: no secrets, no control characters, no long texts (ASVS 16.2, 16.4)."""
    trace = line.pop("exception", None)
    guarded = cast("dict[str, Any]", _guarded(line, MAX_NESTING))
    if isinstance(trace, str):
        guarded["exception"] = _without_secrets(trace)[-MAX_TRACE:]
    return guarded


class Metrics:
    """The counters of one process, in a registry of their own.

    `route` is a route's template, never a path; no label comes from a client, or their number would
    be the client's to choose.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "tintype_requests", "Answered requests.", ("route", "method", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "tintype_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route", "method"),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.uploads = Counter(
            "tintype_uploads",
            "Uploads that came to an end; the outcome is stored, duplicate, replayed, or an error's code.",
            ("protocol", "outcome", "format"),
            registry=registry,
        )
        self.duplicates = Counter(
            "tintype_duplicates", "Uploads of bytes that their owner had already.", registry=registry
        )
        self.stored_bytes = Counter("tintype_stored_bytes", "Bytes of new images.", registry=registry)
        self.stage_seconds = Histogram(
            "tintype_stage_seconds",
            "What an upload spends where: receive, inspect, put, commit.",
            ("stage",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self._stages: dict[str, Histogram] = {}
        self.in_flight_bytes = Gauge(
            "tintype_in_flight_bytes", "Bodies that are being received or stored.", registry=registry
        )
        self.clock_ahead_seconds = Gauge(
            "tintype_clock_ahead_seconds",
            "How far this machine's clock is ahead of the database's, when readiness was last asked for.",
            registry=registry,
        )
        self.decoder_kills = Counter(
            "tintype_decoder_kills",
            "Decoding processes that a file was too much for; the reason is crash, time, memory or nonsense.",
            ("reason",),
            registry=registry,
        )
        self.events_published = Counter(
            "tintype_events_published", "Events that the publisher took.", registry=registry
        )
        self.events_refused = Counter(
            "tintype_events_refused", "Events that the publisher refused, each time.", registry=registry
        )
        self.drift = Gauge(
            "tintype_drift", "What the latest complete check found, by kind.", ("kind",), registry=registry
        )
        self.clean_check_age_seconds = Gauge(
            "tintype_clean_check_age_seconds",
            "Since a check looked at everything and found nothing; infinite before the first.",
            registry=registry,
        )
        self.quarantine_bytes = Gauge(
            "tintype_quarantine_bytes", "What repairs have put aside, and still hold.", registry=registry
        )
        self.oldest_unverified_seconds = Gauge(
            "tintype_oldest_unverified_seconds",
            "Since the image was stored or read whose bytes were not read for longest.",
            registry=registry,
        )
        self.outbox_oldest_seconds = Gauge(
            "tintype_outbox_oldest_seconds", "Age of the oldest event not yet published.", registry=registry
        )
        self.deliveries = Counter(
            "tintype_deliveries",
            "Attempts to tell a subscriber; the outcome is delivered, failed, or dead: the last one failed.",
            ("channel", "outcome"),
            registry=registry,
        )
        self.deliveries_late_seconds = Gauge(
            "tintype_deliveries_late_seconds",
            "For how long the delivery that is due for longest has waited.",
            registry=registry,
        )
        self.journal_trailing_seconds = Gauge(
            "tintype_journal_trailing_seconds",
            "Age of the oldest change that is not in the bucket's journal: what a lost database would lose.",
            registry=registry,
        )
        self.purged = Counter(
            "tintype_purged",
            "Images whose time in the trash was over, and whose bytes went.",
            registry=registry,
        )

    def stage(self, name: str) -> Timer:
        """Measure a stage of an upload: `with metrics.stage("put"):`, also when it fails."""
        stage = self._stages.get(name)
        if stage is None:  # finding a metric by its label costs more than measuring
            stage = self._stages[name] = self.stage_seconds.labels(name)
        return stage.time()

    def render(self) -> bytes:
        """Return all of it as Prometheus's text (`prometheus_client.CONTENT_TYPE_LATEST`)."""
        return generate_latest(self.registry)


class _Adopted(logging.Handler):
    """Gives the standard library's records to our processors."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            get_logger().log(level, record.getMessage(), logger=record.name, exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - a line that cannot be written must not fail what it tells of
            self.handleError(record)


def _as_json(logger: WrappedLogger, method: str, line: EventDict) -> bytes:
    """Return the guarded line. Most have nothing to guard, which is seen sooner than done."""
    if _is_simple(line):
        with suppress(TypeError):  # half a character, which the guard writes as what it is
            written = orjson.dumps(line)
            if _is_plain(written):
                return written
    return orjson.dumps(guard(logger, method, line))


def _is_simple(line: EventDict) -> bool:
    """Tell whether all that a line has are numbers and short texts."""
    value: object
    for value in line.values():
        # By type and not by class: what is derived from a text may be written as something else.
        if type(value) is str:
            if len(value) > MAX_TEXT:
                return False
        elif type(value) is int:
            if value.bit_length() > MAX_INTEGER_BITS:
                return False
        elif value is not None and type(value) is not float and type(value) is not bool:
            return False
    return True


def _is_plain(written: bytes) -> bool:
    """Tell whether a line in JSON is free of secrets, and of characters that are obeyed, not read."""
    if not written.isascii():
        return False
    text = written.decode("ascii").lower()
    if "\\" in text or "\x7f" in text:
        return False
    for sign in _SIGNS:  # noqa: SIM110 # `any` takes twice as long
        if sign in text:
            return False
    return True


def _guarded(value: object, nesting: int) -> object:
    if isinstance(value, str):
        return _guarded_text(value)
    if not isinstance(value, _NESTED):
        return _guarded_scalar(value)
    if nesting == 0:
        return "(more)"
    if not isinstance(value, Mapping):
        return [_guarded(each, nesting - 1) for each in cast("Iterable[object]", value)]
    guarded: dict[str, object] = {}
    for key, each in cast("Mapping[object, object]", value).items():
        name, is_secret = _guarded_name(str(key))
        guarded[name] = REDACTED if is_secret else _guarded(each, nesting - 1)
    return guarded


def _guarded_scalar(value: object) -> str | float | None:
    if isinstance(value, bytes | bytearray):
        return f"({len(value)} bytes)"
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        return _guarded_text(hex(value))
    if value is None or isinstance(value, int | float):
        return value
    return _guarded_text(str(value))


@lru_cache(maxsize=512)
def _guarded_name(name: str) -> tuple[str, bool]:
    """Return a field's name, and whether what stands under it is secret."""
    return _guarded_text(name), _SECRET_NAME.search(name) is not None


def _guarded_text(text: str) -> str:
    # Cut in two steps: a secret at the first edge would not be known as one.
    text = _without_secrets(text[: 10 * MAX_TEXT])
    text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _without_secrets(text: str) -> str:
    lowered = text.lower()
    if any(sign in lowered for sign in _SIGNS):
        for pattern, replacement in _SECRET_TEXTS:
            text = pattern.sub(replacement, text)
    return text
