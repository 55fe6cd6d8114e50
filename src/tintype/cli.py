"""The command line: `tintype serve` and what an operator needs beside it."""

import asyncio
import contextlib
import ipaddress
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvloop
from pydantic import ValidationError

from tintype.catalogue.migrations import migrate
from tintype.model.errors import TintypeError
from tintype.server.process import CannotListen, serve_forever
from tintype.settings import Settings
from tintype.telemetry import configure_logs

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_show_locals=False)


@app.callback()
def tintype() -> None:
    """Tintype keeps images, knows what they are, and tells who asked to hear of them."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on; loopback only.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any free port.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
) -> None:
    """Serve the API, with PostgreSQL and a folder for images unless settings name others."""
    settings = _settings(host=host, port=port, data_dir=data_dir)
    _refuse_strangers(settings.host)
    configure_logs(settings.log)
    _run(serve_forever(settings))


@app.command(name="migrate")
def migrate_database() -> None:
    """Bring the schema of the database that `TINTYPE_DATABASE__URL` names up to date."""
    settings = _settings()
    if settings.database.url is None:
        _fail("Name the database in TINTYPE_DATABASE__URL; the embedded one is migrated when it starts.")
    configure_logs(settings.log)
    for step in _run(migrate(settings.database.url.get_secret_value())):
        typer.echo(f"applied {step}")


@app.command(name="version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("tintype"))


def main() -> None:
    """Run the command line."""
    app()


def _settings(**given: object) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type] # checked by pydantic
    except ValidationError as error:
        lines = [f"  {_variable(each['loc'])}: {each['msg']}" for each in error.errors()]
        _fail("These settings cannot be used:\n" + "\n".join(lines))


def _variable(location: tuple[int | str, ...]) -> str:
    return "TINTYPE_" + "__".join(str(part) for part in location).upper()


def _refuse_strangers(host: str) -> None:
    """Without identity whoever reaches the service owns it: only this machine may."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host != "localhost":
        _fail(
            f"Tintype has no identity configured, so it does not listen on {host}: anyone there could read "
            "and delete every image. Use 127.0.0.1, and reach it from elsewhere through a tunnel or a proxy "
            "that checks who asks."
        )


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run until done. What an operator has to mend is one sentence, not a traceback."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except (TintypeError, CannotListen) as error:
        _fail(str(error))


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"tintype: {sentence}", err=True)
    raise typer.Exit(1)
