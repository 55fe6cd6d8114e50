"""The command line: `tintype serve` and what an operator needs beside it."""

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvloop
from pydantic import ValidationError

from tintype.catalogue.migrations import migrate
from tintype.identity.keys import Keyring
from tintype.model.api_key import ApiKey
from tintype.model.errors import TintypeError
from tintype.model.identity import Scope, owner_of, scopes_of
from tintype.server.process import CannotListen, serve_forever
from tintype.settings import Settings
from tintype.telemetry import configure_logs
from tintype.wiring import open_database

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_show_locals=False)
keys = typer.Typer(no_args_is_help=True, help="API keys: make them, list them, revoke them.")
app.add_typer(keys, name="keys")

DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept.")]
_LIFETIME = re.compile(r"(\d{1,5})([dhms])")
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@app.callback()
def tintype() -> None:
    """Tintype keeps images, knows what they are, and tells who asked to hear of them."""


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="The address to listen on; without identity, loopback only.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any free port.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Serve the API, with PostgreSQL and a folder for images unless settings name others."""
    settings = _settings(host=host, port=port, data_dir=data_dir)
    _refuse_strangers(settings)
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


@keys.command(name="create")
def create_key(
    owner: Annotated[str, typer.Option(help="Whose images the key opens; `local`: those of before.")],
    scopes: Annotated[str, typer.Option(help="Any of read, write and admin, with commas between.")],
    expires: Annotated[str, typer.Option(help="90d, 12h, 30m, or never.")] = "365d",
    data_dir: DataDir = None,
) -> None:
    """Make an API key and print it, this once. The embedded database is started for it."""
    settings = _settings(data_dir=data_dir)
    seconds = _lifetime(expires)
    try:
        named, wanted = owner_of(owner), scopes_of(scopes.split(","))
    except TintypeError as error:
        _fail(str(error))
    configure_logs(settings.log)
    typer.echo(_run(_create_key(settings, named, wanted, seconds)))


@keys.command(name="list")
def list_keys(
    owner: Annotated[str | None, typer.Option(help="Only this owner's.")] = None, data_dir: DataDir = None
) -> None:
    """List API keys: id, owner, scopes, end, last use."""
    settings = _settings(data_dir=data_dir)
    configure_logs(settings.log)
    for key in _run(_list_keys(settings, owner)):
        typer.echo(_key_line(key))


@keys.command(name="revoke")
def revoke_key(
    key_id: Annotated[
        str | None, typer.Argument(help="What stands between `tt_` and the next underscore.")
    ] = None,
    owner: Annotated[str | None, typer.Option(help="All keys of this owner.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke an API key, or all of an owner: within 30 seconds every instance refuses them."""
    settings = _settings(data_dir=data_dir)
    configure_logs(settings.log)
    if (key_id is None) == (owner is None):
        _fail("Name the id of one key, or an --owner.")
    for revoked in _run(_revoke_keys(settings, key_id, owner)):
        typer.echo(f"revoked {revoked}")


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


def _refuse_strangers(settings: Settings) -> None:
    """Without identity whoever reaches the service owns it: only this machine may."""
    if settings.identity.mode != "local" or settings.host == "localhost":
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(settings.host).is_loopback:
            return
    _fail(
        f"Tintype has no identity configured, so it does not listen on {settings.host}: anyone there could "
        "read and delete every image. Set TINTYPE_IDENTITY__MODE=keys, and make a key with "
        "`tintype keys create --owner NAME --scopes read,write,admin`; or use 127.0.0.1."
    )


async def _create_key(settings: Settings, owner: str, scopes: frozenset[Scope], seconds: int | None) -> str:
    async with open_database(settings) as database:
        text, _ = await Keyring(database).create(owner=owner, scopes=scopes, lifetime_seconds=seconds)
        return text


async def _list_keys(settings: Settings, owner: str | None) -> list[ApiKey]:
    async with open_database(settings) as database:
        return await Keyring(database).list_of(owner)


async def _revoke_keys(settings: Settings, key_id: str | None, owner: str | None) -> list[str]:
    async with open_database(settings) as database:
        if owner is not None:
            return await Keyring(database).revoke_all(owner)
        if key_id is not None:
            await Keyring(database).revoke(None, key_id)
            return [key_id]
    return []


def _lifetime(text: str) -> int | None:
    """Return the seconds of `90d`, `12h` or `30m`; None for `never`."""
    if text == "never":
        return None
    match = _LIFETIME.fullmatch(text)
    if match is None or int(match[1]) == 0:
        _fail("--expires takes a number of days, hours or minutes, such as 90d, 12h or 30m, or `never`.")
    return int(match[1]) * _UNITS[match[2]]


def _key_line(key: ApiKey) -> str:
    if key.revoked_at:
        end = f"revoked {key.revoked_at:%Y-%m-%d}"
    else:
        end = f"expires {key.expires_at:%Y-%m-%d}" if key.expires_at else "does not expire"
    used = f"used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "not used yet"
    return f"{key.id}  {key.owner}  {','.join(sorted(key.scopes))}  {end}  {used}  {key.name}".rstrip()


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
