"""Every setting, typed, with its default and its reason; docs/settings.md is made from this file.

The absence of settings is the laptop. Each setting that names an AWS thing moves that one part
to AWS. Environment variables begin with `TINTYPE_`; a group and its field are joined by `__`.
"""

import re
from itertools import permutations
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tintype.model.image import Format

MiB = 1024 * 1024

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
"""As browsers write it (RFC 6454, section 6.2): in lower case, without a path."""


def is_loopback_url(url: str) -> bool:
    """Tell whether a URL leads to this machine, where plain HTTP is safe."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}


class ObjectsSettings(BaseModel):
    """Where the bytes are kept."""

    url: str | None = Field(
        default=None,
        pattern=r"^(s3|file)://.+",
        description="`s3://bucket[/prefix]`, or `file:///folder`. Unset: `objects` in the data directory.",
    )
    region: str = Field(default="us-east-1", description="The bucket's AWS region.")
    endpoint: str | None = Field(
        default=None, description="Another address of an S3 service, for servers that are not AWS."
    )
    access_key_id: SecretStr | None = Field(
        default=None, description="Unset on AWS: the instance's role is used."
    )
    secret_access_key: SecretStr | None = Field(default=None, description="Belongs to `access_key_id`.")
    timeout_seconds: float = Field(
        default=10,
        gt=0,
        description="For one request up to 8 MB; longer bodies get a second for each 5 MB more.",
    )
    connect_timeout_seconds: float = Field(default=1, gt=0, description="To open a connection.")
    max_retries: int = Field(
        default=2, ge=0, description="Repeats of a request that failed by our or S3's fault."
    )
    retry_timeout_seconds: float = Field(
        default=10,
        gt=0,
        description="No repeat begins after this; a balancer's client must not wait longer.",
    )
    window_bytes: int = Field(
        default=32 * MiB,
        ge=16 * MiB,
        description="Of spooled bodies in memory at once on their way to S3: 16 MB for a large one; "
        "more wait for their turn.",
    )

    @property
    def in_bucket(self) -> bool:
        """Whether the bytes are kept in S3; a folder otherwise."""
        return self.url is not None and self.url.startswith("s3://")


class DatabaseSettings(BaseModel):
    """Where the catalogue is kept."""

    url: SecretStr | None = Field(
        default=None,
        description="`postgresql://…`. Unset: PostgreSQL is started in the data directory.",
    )
    iam_region: str | None = Field(
        default=None,
        description="The AWS region of an RDS database that takes tokens of this process's IAM role instead "
        "of a password. Unset: the password in `url`.",
    )
    pool_size: int = Field(default=10, ge=2, description="Connections of one process, at most.")
    acquire_timeout_seconds: float = Field(
        default=2, gt=0, description="Waiting for a connection; then 503 with `Retry-After`."
    )
    statement_timeout_seconds: float = Field(default=5, gt=0, description="PostgreSQL's `statement_timeout`.")
    silence_seconds: float = Field(
        default=5,
        gt=0,
        description="Beyond `statement_timeout_seconds`, which the server itself keeps: a connection that "
        "says nothing for so long is given up.",
    )
    attempt_seconds: float = Field(
        default=3_600,
        gt=0,
        description="A commit refuses an upload that began longer ago, by the database's clock.",
    )
    commit_timeout_seconds: float = Field(
        default=20, gt=0, description="How long a commit in doubt is repeated before it is called unknown."
    )

    @property
    def patience_seconds(self) -> float:
        """How long an answer is waited for, at most."""
        return self.statement_timeout_seconds + self.silence_seconds


class ConsistencySettings(BaseModel):
    """How objects and rows are held against each other, and what is done about differences."""

    grace_seconds: float = Field(
        default=86_400,
        gt=0,
        description="An object without a row is left alone for so long, by the database's clock.",
    )
    every_seconds: float = Field(
        default=86_400, ge=0, description="How often this process begins a check by itself. 0: never."
    )
    scheduled_mode: Literal["quick", "full", "deep"] = Field(
        default="quick", description="How closely a scheduled check looks."
    )
    scheduled_repair: bool = Field(
        default=False, description="Whether a repair follows a scheduled check; else it only reports."
    )
    sweep_seconds: float = Field(
        default=300, gt=0, description="How often stuck things are looked for: uploads, events, runs."
    )
    deep_bytes: int = Field(default=1024 * MiB, gt=0, description="What a deep check reads, at most.")
    at_once: int = Field(default=4, ge=1, description="Shards that one process checks at the same time.")
    lease_seconds: float = Field(
        default=60, gt=0, description="After this without a sign, another worker goes on with a shard."
    )
    max_removals: int = Field(
        default=1_000, ge=0, description="A repair that would take away more stops, and asks a person."
    )
    max_removal_share: float = Field(
        default=0.001, ge=0, le=1, description="The same as a share of all objects, above twenty of them."
    )
    quarantine_days: float = Field(
        default=30, gt=0, description="What a repair took away is kept so long, and can be brought back."
    )
    event_seconds: float = Field(
        default=3_600, gt=0, description="An event that waits longer to be published is a finding."
    )
    operators: frozenset[str] = Field(
        default=frozenset(),
        description="Owners whose administrators may check and repair over HTTP, as a JSON list: a check "
        "sees every owner's images. Without identity everybody may.",
    )
    function: str | None = Field(
        default=None, description="The AWS Lambda function that runs checks. Unset: this process does."
    )


class JournalSettings(BaseModel):
    """What the bucket keeps of changes after an upload, for the day on which the database is lost."""

    seconds: float = Field(
        default=10,
        gt=0,
        description="So late at most a change is in the bucket; a deletion after one second.",
    )
    rewrite_days: float = Field(
        default=30,
        gt=0,
        description="So often all of it is written anew: what it says of purged images goes then.",
    )
    end_seconds: float = Field(
        default=5, ge=0, description="What a stop waits for the last changes to be written."
    )


class TrashSettings(BaseModel):
    """How long deleted images can be brought back."""

    days: float = Field(
        default=30, ge=0, description="Then the bytes of an image in the trash are removed for good."
    )
    every_seconds: float = Field(default=3_600, gt=0, description="How often this is looked after.")


class RetentionSettings(BaseModel):
    """How long the database keeps what is done with."""

    events_days: float = Field(
        default=90,
        gt=0,
        description="Events older than this leave the log once they are published, delivered and in the "
        "journal; each owner's last one stays. Who reads from before begins with the oldest kept.",
    )
    idempotency_days: float = Field(
        default=7, gt=0, description="So long a request is answered again by its `Idempotency-Key`."
    )


class EventsSettings(BaseModel):
    """Where committed events are published."""

    topic_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[^:]+:sns:[^:]+:\d+:.+$",
        description="The SNS topic. Unset: the log, and `outbox` in the data directory.",
    )
    endpoint: str | None = Field(default=None, description="Another address of an SNS service, for tests.")
    poll_seconds: float = Field(
        default=1, gt=0, description="The net below NOTIFY: how often the relay looks by itself."
    )
    sync_seconds: float = Field(
        default=60, gt=0, description="How often subscriptions are compared with those that SNS has."
    )
    publish_timeout_seconds: float = Field(
        default=3, gt=0, description="For what is published at once; the log of events is the retry."
    )
    subscribe_timeout_seconds: float = Field(
        default=10,
        gt=0,
        description="For one call to SNS about a subscription, its repeats included: somebody waits for it. "
        "What could not be said is said later.",
    )
    heartbeat_seconds: float = Field(
        default=15, gt=0, description="So often a stream of events says that it lives when nothing happens."
    )
    max_streams: int = Field(
        default=20, ge=1, description="Streams of events that one owner follows at one instance."
    )

    @field_validator("topic_arn")
    @classmethod
    def _is_a_standard_topic(cls, arn: str | None) -> str | None:
        """Refuse a FIFO topic: it promises an order that retries and several relays do not keep."""
        if arn is not None and arn.endswith(".fifo"):
            raise ValueError(
                "this is a FIFO topic, which reaches queues only, and whose order Tintype does not keep; "
                "name a standard topic, and let receivers go by each image's version"
            )
        return arn


class WebhookSettings(BaseModel):
    """How webhooks are sent."""

    timeout_seconds: float = Field(default=10, gt=0, description="For one call, from the connection on.")
    parallel: int = Field(default=8, ge=1, description="Calls at once to one receiver.")
    lease_seconds: float = Field(
        default=30,
        gt=0,
        description="Beyond the time of a call or mail: after it the deliveries of a killed instance are "
        "taken over.",
    )
    allow_private: bool = Field(
        default=False,
        description="Whether addresses of this machine and of private networks may be called, on any port "
        "and without TLS. Strangers who may subscribe could then reach what is behind the firewall.",
    )
    ports: frozenset[int] = Field(
        default=frozenset({443, 8443}), description="Those that may be called, as a JSON list."
    )


class MailSettings(BaseModel):
    """How mails are sent. Without a server and without SES: into files, shown at `/mail`."""

    smtp_host: str | None = Field(default=None, description="The mail server. Unset: no SMTP.")
    smtp_port: int = Field(default=587, ge=1, le=65_535, description="Its port.")
    smtp_tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="`starttls`: begun in the clear and then encrypted, or not sent; `tls`: from the first "
        "byte (port 465); `none`: for a server on this machine.",
    )
    smtp_user: str | None = Field(default=None, description="Unset: the server asks for no name.")
    smtp_password: SecretStr | None = Field(default=None, description="Belongs to `smtp_user`.")
    ses_region: str | None = Field(
        default=None, description="The region in which Amazon SES sends the mails. Unset: no SES."
    )
    ses_endpoint: str | None = Field(default=None, description="Another address of SES, for tests.")
    from_address: str = Field(
        default="tintype@localhost", description="Whom mails come from: `name@example.com`."
    )
    notices_to: str | None = Field(
        default=None,
        description="Who is told when a subscription is paused after a day of failures. Unset: nobody, but "
        "on a laptop the mail lies with the others.",
    )
    link_seconds: int = Field(
        default=7 * 24 * 3600,
        gt=0,
        le=7 * 24 * 3600,
        description="How long the links to images in mails live.",
    )
    timeout_seconds: float = Field(default=20, gt=0, description="For one mail.")

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if self.smtp_host is not None and self.ses_region is not None:
            raise ValueError("mails go out one way: name `smtp_host` or `ses_region`, not both")
        return self

    @property
    def configured(self) -> bool:
        """Whether mails leave this machine."""
        return self.smtp_host is not None or self.ses_region is not None


class ImagingSettings(BaseModel):
    """How images are inspected."""

    inspect: Literal["full", "header"] = Field(
        default="full",
        description="`full` decodes every pixel in the cage; `header` reads structure only, "
        "and leaves colours, hashes and EXIF unknown.",
    )
    disable: Annotated[frozenset[Literal["jpeg", "png", "gif", "webp", "avif", "tiff", "heic"]], NoDecode] = (
        Field(
            default=frozenset(),
            description="Formats to refuse, with commas between: a loader is out without a release.",
        )
    )
    workers: int | None = Field(
        default=None, ge=1, description="Decoding processes. Unset: one for each core."
    )
    max_side: int = Field(default=65_535, gt=0, description="Pixels along one side.")
    max_pixels: int = Field(default=100_000_000, gt=0, description="Width x height x frames.")
    max_pixels_avif: int = Field(default=50_000_000, gt=0, description="The same for AVIF and HEIC, 8 bit.")
    max_pixels_avif_deep: int = Field(default=25_000_000, gt=0, description="The same above 8 bit a channel.")
    max_frames: int = Field(default=1_000, gt=0, description="Frames of an animation, pages of a TIFF.")
    max_scans: int = Field(
        default=100, gt=0, description="Scans of a progressive JPEG: each is a whole pass."
    )
    max_metadata_bytes: int = Field(
        default=8 * MiB, gt=0, description="Compressed metadata of a PNG, unpacked: more is refused."
    )
    cpu_seconds: int = Field(default=20, gt=0, description="RLIMIT_CPU of one decode.")
    wall_seconds: float = Field(default=30, gt=0, description="A decode that takes longer is killed.")
    max_resident_bytes: int = Field(
        default=768 * MiB, gt=0, description="A decoder that grows larger is killed."
    )
    recycle_after: int = Field(default=500, gt=0, description="Images that one decoding process serves.")

    @field_validator("disable", mode="before")
    @classmethod
    def _are_listed(cls, formats: object) -> object:
        """Take what somebody in a hurry writes: `tiff`, `tiff,gif`, or a JSON list."""
        if not isinstance(formats, str):
            return formats
        return frozenset(re.findall(r"\w+", formats.lower()))

    def disabled(self, image_format: Format) -> bool:
        """Tell whether a format is switched off."""
        return image_format.name.lower() in self.disable


class LimitsSettings(BaseModel):
    """What one request, and all of them together, may take."""

    max_upload_bytes: int = Field(default=50 * MiB, gt=0, description="Of one image.")
    max_files: int = Field(default=100, gt=0, description="Files of one multipart request.")
    max_parts: int = Field(default=200, gt=0, description="Parts of one multipart request, text included.")
    max_text_bytes: int = Field(default=64 * 1024, gt=0, description="Of all text parts, or of a JSON body.")
    memory_bytes: int = Field(
        default=4194304,
        ge=0,
        description="A body up to this size stays in memory; a larger one goes to a file.",
    )
    memory_total_bytes: int = Field(
        default=32 * MiB,
        ge=0,
        description="All bodies in memory together; beyond, small ones go to files too.",
    )
    in_flight_bytes: int = Field(
        default=2048 * MiB,
        gt=0,
        description="Bodies being received or stored at once; beyond: 503 with `Retry-After`.",
    )
    max_wait_seconds: float = Field(
        default=2,
        ge=0,
        description="Uploads that would wait longer than this for an owner's others to be stored are refused "
        "before they are read: 503 with `Retry-After`. 64 may wait in any case. 0: never.",
    )
    min_bytes_per_second: int = Field(
        default=1024,
        ge=0,
        description="Who sends a body, or takes an answer, more slowly over half a minute is cut. 0: never.",
    )
    max_unfinished_uploads: int = Field(
        default=1000, gt=0, description="Of one owner: resumable and direct uploads that are under way."
    )
    direct_ttl_seconds: int = Field(
        default=900,
        gt=0,
        le=604_800,
        description="How long a client may begin to send what was signed for it; what arrived is then "
        "finished, whether somebody told of it or not.",
    )
    upload_ttl_seconds: int = Field(
        default=86_400,
        gt=0,
        description="An unfinished upload that nobody goes on with ends after this; a week after its begin "
        "it ends in any case.",
    )
    sweep_seconds: float = Field(
        default=60, gt=0, description="How often what ended uploads left behind is looked for."
    )
    min_free_bytes: int = Field(
        default=256 * MiB,
        ge=0,
        description="Free room on the spool's disk below which uploads are refused.",
    )
    quota_bytes: int | None = Field(
        default=None,
        ge=0,
        description="An owner's quota, unless `tintype quota set` gives another one. Unset: no limit.",
    )
    quota_images: int | None = Field(
        default=None, ge=0, description="The same, of images. See docs/limits.md."
    )
    requests_per_second: float = Field(
        default=1000,
        ge=0,
        description="Of one key or token, on one instance, over ten seconds; beyond: 429. 0: no limit.",
    )
    bytes_per_second: int = Field(
        default=0,
        ge=0,
        description="The same, of bodies in both directions, over a minute. 0: no limit.",
    )
    open_requests: int = Field(
        default=512,
        ge=0,
        description="Of one owner at once, on one instance; beyond: 429. 0: no limit.",
    )
    failed_logins_per_minute: int = Field(
        default=60,
        ge=0,
        description="Of one address (IPv6: of its /64), on one instance; beyond: 429. 0: no limit.",
    )


class IssuerSettings(BaseModel):
    """Who issues JWTs that are accepted: an OpenID provider, Amazon Cognito for example."""

    url: str = Field(description="`iss` of its tokens, to the letter; its keys are found by discovery.")
    audience: str = Field(min_length=1, description="What `audience_claim` must be, or have in it.")
    audience_claim: str = Field(
        default="aud", description="Cognito's access tokens have `client_id` in its place."
    )
    algorithms: frozenset[Literal["RS256", "ES256", "EdDSA", "Ed25519"]] = Field(
        default=frozenset({"RS256"}), min_length=1, description="How its tokens may be signed."
    )
    jwks_url: str | None = Field(default=None, description="Where its keys are, for one without discovery.")
    owner_claim: str = Field(default="sub", description="The claim that names the owner.")
    owner_prefix: str = Field(
        default="",
        max_length=32,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._:@|+-]*)?$",
        description="Put before the owner's name: the owners of two issuers are not to meet.",
    )
    scopes_claim: str = Field(
        default="scope", description="The claim that lists scopes: a list, or a text with spaces between."
    )
    scopes_prefix: str = Field(
        default="",
        description="What stands before the scopes' names there: `tintype/`, for example.",
    )

    @field_validator("url", "jwks_url")
    @classmethod
    def _is_trusted(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).scheme != "https" and not is_loopback_url(url):
            raise ValueError("an issuer is reached by https, or on this machine")
        return url


class IdentitySettings(BaseModel):
    """Who may do what. See docs/security.md."""

    mode: Literal["local", "keys"] = Field(
        default="local",
        description="`local`: nobody is asked, and only this machine is listened to; `keys`: every request "
        "needs an API key, which `tintype keys create` makes, or a token of one of the `issuers`.",
    )
    issuers: tuple[IssuerSettings, ...] = Field(
        default=(), description="Whose JWTs are accepted beside API keys: a JSON list of objects, see below."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.issuers and self.mode == "local":
            raise ValueError("issuers need `mode` to be `keys`: in `local` nobody is asked for a token")
        if len({issuer.url for issuer in self.issuers}) < len(self.issuers):
            raise ValueError("an issuer is named twice")
        prefixes = [issuer.owner_prefix for issuer in self.issuers]
        if any(one.startswith(other) for one, other in permutations(prefixes, 2)):
            raise ValueError(
                "issuers need an `owner_prefix` each that none of the others begins with, or one could name "
                "another one's owners"
            )
        return self


class LogSettings(BaseModel):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto`: colours on a terminal, JSON lines elsewhere."
    )


class Settings(BaseSettings):
    """All of it. Read once, by `wiring`."""

    model_config = SettingsConfigDict(
        env_prefix="TINTYPE_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    host: str = Field(
        default="127.0.0.1", description="The address to listen on. Without identity: loopback only."
    )
    port: int = Field(default=8000, ge=0, le=65_535, description="0: any free port; it is printed.")
    data_dir: Path = Field(default=Path("data"), description="Everything that a laptop keeps.")
    spool_dir: Path | None = Field(
        default=None, description="For bodies on their way. Unset: `spool` in the data directory."
    )
    public_url: str | None = Field(
        default=None, description="How clients reach the service, for links. Unset: as the request came."
    )
    link_ttl_seconds: int = Field(
        default=3600, gt=0, description="How long a link lives unless asked otherwise."
    )
    linger_seconds: float = Field(
        default=0,
        ge=0,
        description="After SIGTERM the service goes on for so long, while `/readyz` answers 503: until a "
        "balancer has seen that and sends nothing more.",
    )
    drain_seconds: float = Field(default=8, ge=0, description="How long requests in flight may take to end.")
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        description="How long an idle connection is kept. Longer than a balancer's idle timeout, which is "
        "60 s at AWS: it would send requests into closed connections otherwise.",
    )
    malloc_threshold_bytes: int = Field(
        default=32 * MiB,
        ge=0,
        description="glibc's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: fewer system calls for each "
        "body, more memory kept. 0 leaves glibc's own.",
    )
    objects: ObjectsSettings = Field(default=ObjectsSettings())
    database: DatabaseSettings = Field(default=DatabaseSettings())
    events: EventsSettings = Field(default=EventsSettings())
    webhooks: WebhookSettings = Field(default=WebhookSettings())
    mail: MailSettings = Field(default=MailSettings())
    consistency: ConsistencySettings = Field(default=ConsistencySettings())
    journal: JournalSettings = Field(default=JournalSettings())
    trash: TrashSettings = Field(default=TrashSettings())
    retention: RetentionSettings = Field(default=RetentionSettings())
    imaging: ImagingSettings = Field(default=ImagingSettings())
    limits: LimitsSettings = Field(default=LimitsSettings())
    identity: IdentitySettings = Field(default=IdentitySettings())
    log: LogSettings = Field(default=LogSettings())
    cors_origins: tuple[str, ...] = Field(  # behind `identity`, which its check asks for
        default=(),
        description="Origins whose pages may call the API from a browser: a JSON list, as "
        '`["https://shop.example"]`. `["*"]`: all, where every request needs credentials.',
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        default=(),
        description="Addresses of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed: "
        'a JSON list of networks, as `["10.0.0.0/16"]`. `X-Forwarded-Host` never is; see `public_url`.',
    )

    @model_validator(mode="after")
    def _leaves_attempts_alone(self) -> Self:
        """Keep checks from an object whose row may still be committed, be it at the last moment."""
        longest = self.database.attempt_seconds + 2 * self.database.statement_timeout_seconds
        if self.consistency.grace_seconds < longest:
            raise ValueError(
                f"consistency.grace_seconds must be at least {longest:g}: database.attempt_seconds and twice "
                "database.statement_timeout_seconds"
            )
        return self

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        identity: IdentitySettings | None = info.data.get("identity")
        if "*" in origins and (identity is None or identity.mode == "local"):
            raise ValueError("`*` needs identity: without it any page could read and delete every image")
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: a scheme, a host and, where it is not the scheme's own, a port"
                )
        return origins
