"""A stage: one Tintype on AWS, and everything about it that a person decides."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

AccountId = Annotated[str, StringConstraints(pattern=r"^\d{12}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
Zone = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d[a-z]$")]
CertificateArn = Annotated[str, StringConstraints(pattern=r"^arn:[^:]+:acm:[^:]+:\d{12}:certificate/.+$")]
ConnectionArn = Annotated[
    str, StringConstraints(pattern=r"^arn:[^:]+:(codeconnections|codestar-connections):[^:]+:\d{12}:.+$")
]
SettingName = Annotated[str, StringConstraints(pattern=r"^TINTYPE_[A-Z0-9_]+$")]


class StageInvalid(ValueError):
    """What a person decided cannot be deployed; the message names the field and says what fits."""


class Stage(BaseModel):
    """The decisions about one stage. The defaults are the smallest one that survives the loss of a zone.

    docs/aws.md has what each choice costs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,15}$")]
    account: AccountId
    region: Region
    zones: tuple[Zone, Zone] | None = None
    """Two availability zones; the first two of the region unless named."""

    certificate_arn: CertificateArn | None = None
    """Of AWS Certificate Manager, in the stage's region, for the balancer's TLS."""
    plain_http: bool = False
    """Serve without TLS: a stage for trying things must say so."""
    public_url: Annotated[str, StringConstraints(pattern=r"^https?://[^/]+$")] | None = None
    """How clients reach the stage; the balancer's own name unless given."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages upload from a browser, to the API and straight to the bucket."""

    network: Annotated[str, StringConstraints(pattern=r"^(\d{1,3}\.){3}\d{1,3}/(16|17|18|19|20)$")] = (
        "10.60.0.0/16"
    )
    egress: Literal["nat", "nat-per-zone", "endpoints"] = "nat"
    """How private subnets reach AWS's services and, with NAT, the internet."""

    instance_type: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[a-z0-9]+$")] = "t2.small"
    instances: int = Field(default=2, ge=1)
    instances_at_most: int = 6
    requests_per_instance: int = Field(default=600, ge=1)
    """Per minute and instance, which the Auto Scaling Group holds by adding and removing instances."""

    database_class: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[a-z0-9]+$")] = "t4g.micro"
    database_gib: int = Field(default=20, ge=20)
    database_multi_az: bool = False
    backup_days: int = Field(default=7, ge=1, le=35)

    requests_per_address: int | None = Field(default=None, ge=10)
    """In five minutes, from one address, before the firewall (AWS WAF) refuses it; None: no firewall."""
    operator_email: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    """Who hears of alarms."""
    mail_from: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    """A sender that Amazon SES has verified; None: e-mail goes through SNS."""
    keep: bool = True
    """Refuse to delete the database and the buckets, whatever is deployed."""
    settings: dict[SettingName, str] = Field(default_factory=dict)
    """More of docs/settings.md for the service."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.plain_http == (self.certificate_arn is not None):
            raise ValueError(
                "`certificate_arn` must name a certificate for TLS, unless `plain_http = true` says that "
                "there is none"
            )
        if self.instances_at_most <= self.instances:
            raise ValueError(
                "`instances_at_most` must be more than `instances`: a rollout needs room for one"
            )
        if any(not zone.startswith(self.region) for zone in self.zones or ()):
            raise ValueError(f"`zones` must be in {self.region}")
        return self

    @property
    def both_zones(self) -> list[str]:
        """The zones, named: a lookup would need credentials at synthesis."""
        return list(self.zones or (f"{self.region}a", f"{self.region}b"))


class Delivery(BaseModel):
    """Where the source is, and from where it is deployed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    account: AccountId
    region: Region
    repository: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    """`owner/name` on GitHub."""
    branch: str = "main"
    connection_arn: ConnectionArn
    """Of an AWS CodeConnections connection to GitHub, confirmed in the console."""


class Estate(BaseModel):
    """All stages, in the order in which a push reaches them, and the delivery that takes it there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stage: dict[str, Stage] = Field(min_length=1)
    delivery: Delivery | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a TOML file says. Raises `StageInvalid` with the field's name."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StageInvalid(
                f"{path} is not there. Copy infra/stages.example.toml to it and fill in your account."
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise StageInvalid(f"{path} is not TOML: {error}") from error
        for name, table in tables.get("stage", {}).items():
            table.setdefault("name", name)
        try:
            # TOML has lists where these classes have tuples, and nothing else that needs a conversion.
            return cls.model_validate_json(json.dumps(tables, default=str))
        except ValidationError as error:
            raise StageInvalid(f"{path}: {_sentence(error)}") from error

    def named(self, name: str) -> Stage:
        """Return one stage. Raises `StageInvalid` with the names that there are."""
        if name not in self.stage:
            raise StageInvalid(f"There is no stage {name!r}; there are: {', '.join(self.stage)}.")
        return self.stage[name]


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"`{where}`: {first['msg'].removeprefix('Value error, ')}."
