"""The command line: `tintype serve` and what an operator needs beside it."""

import asyncio
import contextlib
import importlib
import importlib.util
import ipaddress
import json
import re
from collections.abc import Coroutine, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from uuid import UUID

import orjson
import typer
import uvloop
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress

from tintype.catalogue import rebuilding
from tintype.catalogue.database import EVERY_OWNER
from tintype.catalogue.migrations import migrate
from tintype.consistency.rebuild import LOST, Report
from tintype.consistency.runs import summary_of
from tintype.identity.keys import Keyring
from tintype.model.api_key import ApiKey
from tintype.model.check import MANIFEST, Mode, Order, Run, RunState, Task, run_payload
from tintype.model.errors import TintypeError
from tintype.model.finding import Finding
from tintype.model.identity import Scope, owner_of, scopes_of
from tintype.model.quota import Quota, Usage
from tintype.settings import Settings
from tintype.telemetry import configure_logs
from tintype.wiring import open_checks, open_database, open_rebuild, quotas_of

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_show_locals=False)
keys = typer.Typer(no_args_is_help=True, help="API keys: make them, list them, revoke them.")
app.add_typer(keys, name="keys")
quota = typer.Typer(no_args_is_help=True, help="Quotas: what an owner may store.")
app.add_typer(quota, name="quota")

DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept.")]
_LIFETIME = re.compile(r"(\d{1,5})([dhms])")
_SIZE = re.compile(r"(\d{1,12})(|[KMGT]i?B)", re.IGNORECASE)
EXPORT_PAGE = 500
SHOWN = 50
"""Findings that are printed for people."""
SHOW_SECONDS = 0.2
FINDINGS_LEFT = 3
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
    # It takes long to load, and no other command needs it.
    from tintype.server.process import CannotListen, serve_forever  # noqa: PLC0415

    settings = _settings(host=host, port=port, data_dir=data_dir)
    _refuse_strangers(settings)
    configure_logs(settings.log)
    try:
        _run(serve_forever(settings))
    except CannotListen as error:
        _fail(str(error))


@app.command(name="migrate")
def migrate_database() -> None:
    """Bring the schema of the database that `TINTYPE_DATABASE__URL` names up to date."""
    settings = _settings()
    if settings.database.url is None:
        _fail("Name the database in TINTYPE_DATABASE__URL; the embedded one is migrated when it starts.")
    configure_logs(settings.log)
    for step in _run(migrate(settings.database.url.get_secret_value())):
        typer.echo(f"applied {step}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def deploy(context: typer.Context) -> None:
    """Put Tintype on AWS: --stage NAME [--diff | --destroy | --bootstrap] [--yes]; see docs/aws.md."""
    if importlib.util.find_spec("tintype_infra") is None:
        _fail(
            "The infrastructure is not installed here. In a checkout of Tintype, `make deploy STAGE=name` "
            "installs it and deploys; docs/aws.md begins at an empty account."
        )
    raise typer.Exit(importlib.import_module("tintype_infra.deploy").main(context.args))


@keys.command(name="create")
def create_key(
    owner: Annotated[str, typer.Option(help="Whose images the key opens; `local`: those of before.")],
    scopes: Annotated[str, typer.Option(help="Any of read, write, admin and location, with commas between.")],
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


@quota.command(name="set")
def set_quota(
    owner: Annotated[str, typer.Argument(help="Whose; without identity the only one is `local`.")],
    size: Annotated[str | None, typer.Option("--bytes", help="500MB, 20GiB, or a number of bytes.")] = None,
    images: Annotated[int | None, typer.Option(min=0, help="How many.")] = None,
    *,
    unlimited: Annotated[bool, typer.Option(help="No limit, whatever the settings say.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Give an owner a quota, in place of the one there was; it acts within 15 seconds on every instance."""
    settings = _settings(data_dir=data_dir)
    wanted = Quota(None if size is None else _bytes(size), images)
    if wanted.is_limit == unlimited:
        _fail("Name --bytes, --images or both; or --unlimited.")
    configure_logs(settings.log)
    try:
        named = owner_of(owner)
    except TintypeError as error:
        _fail(str(error))
    typer.echo(_quota_line(named, wanted, _run(_give_quota(settings, named, wanted))))


@quota.command(name="remove")
def remove_quota(owner: str, data_dir: DataDir = None) -> None:
    """Take an owner's quota away: what the settings say holds again."""
    settings = _settings(data_dir=data_dir)
    configure_logs(settings.log)
    if not _run(_remove_quota(settings, owner)):
        _fail(f"{owner} has no quota of their own. `tintype quota list` shows who has.")


@quota.command(name="list")
def list_quotas(data_dir: DataDir = None) -> None:
    """List who has a quota of their own: what it is, and what is stored."""
    settings = _settings(data_dir=data_dir)
    configure_logs(settings.log)
    for owner, given, usage in _run(_list_quotas(settings)):
        typer.echo(_quota_line(owner, given, usage))


@app.command()
def rebuild(
    *,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Read metadata only: EXIF of the last seconds' images stays unknown."),
    ] = False,
    restored: Annotated[
        bool, typer.Option("--restored", help="Bring a database from a backup up to date instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Make the catalogue anew from the bucket alone. What was killed goes on where it was."""
    settings = _settings(data_dir=data_dir)
    configure_logs(settings.log)
    report = _run(_rebuild(settings, quick=quick, restored=restored))
    if as_json:
        typer.echo(json.dumps({"counts": report.counts, "resumed": report.resumed, "not_rebuilt": LOST}))
        return
    for name, count in sorted(report.counts.items()):
        typer.echo(f"{name.replace('_', ' ')}: {count}")
    typer.echo(f"{'Not brought up to date' if restored else 'Not in the bucket, so not rebuilt'}:")
    for lost in LOST:
        typer.echo(f"  {lost}")


@app.command()
def export(data_dir: DataDir = None) -> None:
    """Print all that a rebuild brings back, a line of JSON for each image: for comparing, and for leaving."""
    settings = _settings(data_dir=data_dir)
    configure_logs(settings.log)
    _run(_export(settings))


@app.command()
def check(
    *,
    mode: Annotated[
        Mode, typer.Option(help="quick: listings; full: also metadata; deep: also bytes, within a budget.")
    ] = Mode.QUICK,
    quick: Annotated[bool, typer.Option("--quick", help="The same as --mode quick.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The same as --mode full.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="The same as --mode deep.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is found, within the brakes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what a repair would do.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="The database was restored: make rows of objects that have none.")
    ] = False,
    confirm: Annotated[bool, typer.Option("--confirm", help="Release the brakes.")] = False,
    inventory: Annotated[
        str | None, typer.Option(help="Take the listing from S3 Inventory: s3://bucket/…/manifest.json.")
    ] = None,
    undo: Annotated[UUID | None, typer.Option(help="Take back what this run has repaired.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run and its findings as JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Hold objects and rows against each other. Ends with 0 when nothing is left to do, with 3 otherwise."""
    if quick + full + deep > 1:
        _fail("Name one of --quick, --full and --deep.")
    chosen = Mode.FULL if full else Mode.DEEP if deep else Mode.QUICK if quick else mode
    if inventory is not None and re.fullmatch(MANIFEST, inventory) is None:
        _fail("--inventory takes the address of a manifest: s3://bucket/folders/manifest.json.")
    order = Order(chosen, repair or dry_run, dry_run, adopt, confirm, inventory=inventory)
    settings = _settings(data_dir=data_dir)
    configure_logs(settings.log.model_copy(update={"level": "warning"}))
    run, found = _run(_check(settings, order, undo))
    if as_json:
        shown = [
            {"kind": each.kind, "key": each.key, "state": each.state, "note": each.note} for each in found
        ]
        typer.echo(orjson.dumps({**run_payload(run), "list": shown}))
    else:
        for each in found[:SHOWN]:
            typer.echo(f"{each.kind}  {each.key}  {each.state}  {each.note or _sides(each)}".rstrip())
        if len(found) > SHOWN:
            typer.echo(f"… and {len(found) - SHOWN} more: --json prints all of them")
        typer.echo(f"{summary_of(run)} (run {run.id})")
        for hint in _hints(run):
            typer.echo(hint)
    raise typer.Exit(_status(run, undo))


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


async def _give_quota(settings: Settings, owner: str, given: Quota) -> Usage:
    async with open_database(settings) as database:
        return await quotas_of(database, settings).give(owner, given)


async def _remove_quota(settings: Settings, owner: str) -> bool:
    async with open_database(settings) as database:
        return await quotas_of(database, settings).remove(owner)


async def _list_quotas(settings: Settings) -> list[tuple[str, Quota, Usage]]:
    async with open_database(settings) as database:
        return await quotas_of(database, settings).list_all()


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        _fail("--bytes takes a number with or without a unit, such as 500MB or 20GiB.")
    unit = match[2].upper()
    return int(match[1]) * (1024 if "I" in unit else 1000) ** " KMGT".index(unit[:1] or " ")


def _quota_line(owner: str, given: Quota, usage: Usage) -> str:
    def of(used: int, most: int | None) -> str:
        return f"{used:,} of {'any' if most is None else f'{most:,}'}"

    return f"{owner}  {of(usage.bytes, given.max_bytes)} bytes  {of(usage.images, given.max_images)} images"


async def _rebuild(settings: Settings, *, quick: bool, restored: bool) -> Report:
    async with open_rebuild(settings, quick=quick, restored=restored) as work:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("rebuild", total=1.0)

            def tell(part: float, counts: Mapping[str, int]) -> None:
                bar.update(task, completed=part, description=f"rebuild: {counts.get('rows', 0)} images")

            return await work.run(tell)


async def _check(settings: Settings, order: Order, undo: UUID | None) -> tuple[Run, list[Finding]]:
    async with open_checks(settings) as runs:
        run = await runs.under_way()
        shared = settings.database.url is not None
        # What a stopped service has left is not gone on with: it has not seen what came after.
        alike = run is not None and run.is_as(order, undoing=undo is not None, whoever_asked=shared)
        if run is not None and alike and undo in (None, run.id):
            typer.echo(f"Going on with run {run.id}, begun {run.started_at:%Y-%m-%d %H:%M} UTC.", err=True)
        else:
            if not shared:
                await runs.clear()  # nobody else has this database open, so nobody works on what is under way
            run = await (runs.begin(order) if undo is None else runs.undo(undo, order.asked_by))
        working = asyncio.create_task(runs.work(run.id))
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("check")
            while not working.done():
                await asyncio.wait([working], timeout=SHOW_SECONDS)
                run = await runs.find(run.id)
                told = f"{run.task}: {run.counts.objects:,} objects, {run.findings} findings"
                bar.update(task, total=run.counts.parts, completed=run.counts.parts_done, description=told)
        await working
        return await runs.find(run.id), await runs.findings(run.id)


def _sides(finding: Finding) -> str:
    """Return what the sides of a difference say, where both say something."""
    stored, row = finding.details.get("object"), finding.details.get("row")
    if not stored or not row:
        return str(finding.details.get("reason", ""))
    if stored["bytes"] == row["bytes"]:
        return f"{row['bytes']:,} bytes on both sides, but another ETag"
    return f"{stored['bytes']:,} bytes in the store, {row['bytes']:,} by the row"


def _hints(run: Run) -> list[str]:
    """Return what may be done next."""
    hints: list[str] = []
    if run.state is RunState.COMPLETE and run.states.get("open") and run.task is not Task.UNDO:
        hints.append("`tintype check --repair` repairs what it finds; --dry-run says how.")
    if run.states.get("repaired") and run.task is not Task.UNDO:
        hints.append(f"`tintype check --undo {run.id}` takes the repair back.")
    return hints


def _status(run: Run, undo: UUID | None) -> int:
    """Return the exit status: 0 when nothing is left to do, 3 when something is, 1 for what did not run."""
    if run.state not in (RunState.COMPLETE, RunState.STOPPED):
        return 1
    left = 0 if undo else sum(run.states.get(state, 0) for state in ("open", "skipped"))
    return FINDINGS_LEFT if left or run.state is RunState.STOPPED else 0


async def _export(settings: Settings) -> None:
    async with open_database(settings) as database:
        after = UUID(int=0)
        while True:
            async with database.reading(EVERY_OWNER) as tx:
                images = await rebuilding.export(tx, after, EXPORT_PAGE)
            if not images:
                return
            for image in images:
                typer.echo(orjson.dumps(image, option=orjson.OPT_SORT_KEYS))
            after = UUID(images[-1]["id"])


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
    except TintypeError as error:
        _fail(str(error))


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"tintype: {sentence}", err=True)
    raise typer.Exit(1)
