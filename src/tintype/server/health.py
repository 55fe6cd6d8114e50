"""Health: is the process alive, can it serve, what does it count."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tintype.model.errors import NotReady
from tintype.server.context import context_of
from tintype.server.openapi import may_fail

router = APIRouter(tags=["service"])

_METRICS_EXAMPLE = """# HELP tintype_requests_total Answered requests.
# TYPE tintype_requests_total counter
tintype_requests_total{method="POST",route="/v1/images",status="201"} 42.0
"""


class Alive(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "alive"}})

    status: str


class Ready(BaseModel):
    """The instance can take uploads."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"status": "ready", "degraded": {"objects": "The object store does not answer."}}
        }
    )

    status: str
    degraded: dict[str, str] = Field(
        description="Parts that fail on every instance alike, and so are no reason to take this one away."
    )


@router.get("/healthz", response_model=Alive)
async def healthz() -> dict[str, str]:
    """Tell that the process is alive. A database that is down is no reason to restart: it is not asked."""
    return {"status": "alive"}


@router.get("/readyz", response_model=Ready, responses=may_fail(NotReady))
async def readyz(request: Request) -> dict[str, Any]:
    """Tell whether this instance can take uploads; 503 with the reasons when it cannot.

    A report stands for a second: asking more often costs nothing, and tells nothing new.
    """
    report = await context_of(request).readiness.report()
    if report.failing:
        reasons = dict(report.failing)
        raise NotReady(
            " ".join(f"{name}: {reason}" for name, reason in reasons.items()),
            details={"reasons": reasons, "degraded": dict(report.degraded)},
        )
    return {"status": "ready", "degraded": dict(report.degraded)}


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": _METRICS_EXAMPLE}}}},
)
async def metrics(request: Request) -> Response:
    """Return the counters of this process in Prometheus's text format."""
    return Response(context_of(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)
