"""The laptop's PostgreSQL: durable, private, never two, and never left behind."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import LiteralString

import psycopg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from postgres import Postgres
from tintype.catalogue.embedded import EmbeddedPostgres
from tintype.model.errors import DatabaseUnavailable

HOST = """
import asyncio, sys
from pathlib import Path
from tintype.catalogue.embedded import EmbeddedPostgres

async def main(data_dir):
    async with EmbeddedPostgres.run(Path(data_dir)) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""
"""A process that runs a server, as `tintype serve` does."""


class Host:
    def __init__(self, process: asyncio.subprocess.Process, server_pid: int) -> None:
        self.process = process
        self.server_pid = server_pid

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def hosted(data_dir: Path) -> AsyncIterator[Host]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Host(process, int(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def run(url: str, statement: LiteralString) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)


async def write(server: EmbeddedPostgres, text: LiteralString) -> None:
    await run(server.url, "CREATE TABLE IF NOT EXISTS notes (note text)")
    await run(server.url, f"INSERT INTO notes VALUES ('{text}')")  # noqa: S608 # a literal


async def read(server: EmbeddedPostgres) -> list[str]:
    async with await psycopg.AsyncConnection.connect(server.url) as connection:
        return [note for (note,) in await (await connection.execute("SELECT note FROM notes")).fetchall()]


async def setting(server: EmbeddedPostgres, name: str) -> str:
    async with await psycopg.AsyncConnection.connect(server.url) as connection:
        cursor = await connection.execute("SELECT current_setting(%s)", [name])
        ((value,),) = await cursor.fetchall()
        return value


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended. Nobody may have collected it, in a container without an init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def family(pid: int) -> list[int]:
    """A postmaster and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def command_of(server: EmbeddedPostgres) -> list[str]:
    """The words that start this server, without the kernel's promise to end it together with Tintype."""
    words = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")[:-1]
    words.append("--unix_socket_directories=.")  # a directory outside of the data is gone by then
    return as_owner(server.folder, words)


def as_owner(folder: Path, words: list[str]) -> list[str]:
    """A command as the user whom the folder belongs to, who may look into the directories above."""
    owner = folder.stat()
    if os.geteuid() != 0:
        return words
    passage = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return [
        "setpriv",
        f"--reuid={owner.st_uid}",
        f"--regid={owner.st_gid}",
        "--clear-groups",
        *passage,
        *words,
    ]


def listens_on_tcp(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/net/tcp").read_text() + Path(f"/proc/{pid}/net/tcp6").read_text()
    sockets = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return any(f"socket:[{line.split()[9]}]" in sockets for line in lines.splitlines() if " 0A " in line)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that was used before."""
    data_dir = tmp_path_factory.mktemp("made")
    async with EmbeddedPostgres.run(data_dir) as server:
        await write(server, "kept")
    return data_dir


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for this test alone."""
    subprocess.run(["cp", "--archive", made, tmp_path / "data"], check=True)
    return tmp_path / "data"


async def test_what_was_written_is_there_after_a_stop_and_a_start(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        assert await read(server) == ["kept"]


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit", "full_page_writes", "data_checksums"])
async def test_nothing_that_makes_a_commit_durable_is_off(postgres: Postgres, name: str) -> None:
    assert await setting(postgres.server, name) == "on"


async def test_a_server_that_would_lose_commits_is_refused(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        await run(server.admin_url, "ALTER DATABASE tintype SET synchronous_commit = off")

    with pytest.raises(DatabaseUnavailable, match="synchronous_commit = off"):
        async with EmbeddedPostgres.run(data_dir):
            pass


async def test_it_is_reached_through_a_directory_that_nobody_else_can_enter(postgres: Postgres) -> None:
    assert postgres.server.pid is not None
    assert not listens_on_tcp(postgres.server.pid)
    assert stat.S_IMODE(postgres.server.socket_dir.stat().st_mode) == 0o700


async def test_tintype_is_not_a_superuser_in_it(postgres: Postgres) -> None:
    assert await setting(postgres.server, "is_superuser") == "off"


async def test_a_data_directory_with_a_long_path_works(tmp_path: Path) -> None:
    async with EmbeddedPostgres.run(tmp_path / ("long" * 40) / "data") as server:
        await write(server, "kept")
        assert await read(server) == ["kept"]
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
        elsewhere = server.socket_dir
    assert not elsewhere.exists()


async def test_a_socket_is_not_put_where_others_can_enter() -> None:
    with TemporaryDirectory() as data_dir:
        (Path(data_dir) / "postgres" / "socket").mkdir(parents=True, mode=0o755)

        with pytest.raises(DatabaseUnavailable, match="open to others"):
            async with EmbeddedPostgres.run(Path(data_dir)):
                pass


async def test_a_stop_leaves_no_process(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        assert server.pid is not None
        processes = family(server.pid)
        idle = await psycopg.AsyncConnection.connect(server.url)  # a client that does not go by itself

    assert all(gone(pid) for pid in processes)
    await idle.close()


async def test_ctrl_c_in_the_terminal_does_not_reach_it(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        assert server.pid is not None
        assert os.getpgid(server.pid) != os.getpgid(0)
        assert os.getsid(server.pid) != os.getsid(0)


async def test_when_tintype_is_killed_it_ends_by_itself(data_dir: Path) -> None:
    async with hosted(data_dir) as host:
        processes = family(host.server_pid)
        await host.kill()

        await until(lambda: all(gone(pid) for pid in processes))


async def test_killed_together_with_tintype_it_starts_again_with_all_that_was_committed(
    data_dir: Path,
) -> None:
    async with hosted(data_dir) as host:
        os.kill(host.server_pid, signal.SIGKILL)
        await host.kill()

        async with EmbeddedPostgres.run(data_dir) as server:
            assert await read(server) == ["kept"]


async def test_a_new_start_does_not_wait_long_for_the_server_of_a_killed_tintype(data_dir: Path) -> None:
    async with hosted(data_dir) as host:
        await host.kill()

        async with EmbeddedPostgres.run(data_dir) as server:
            assert server.pid != host.server_pid
            assert gone(host.server_pid)


async def test_a_server_that_was_left_running_is_ended_before_the_next_one_starts(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        words = command_of(server)
    with running(words) as left:
        pid_file = data_dir / "postgres" / "data" / "postmaster.pid"
        await until(lambda: pid_file.exists() and "ready" in pid_file.read_text())

        async with EmbeddedPostgres.run(data_dir) as server:
            assert left.poll() is not None
            assert await read(server) == ["kept"]


async def test_a_pid_that_somebody_else_got_meanwhile_does_not_keep_it_from_starting(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        pid_file = server.folder / "postmaster.pid"
        _pid, rest = pid_file.read_text().split("\n", 1)
    with running(as_owner(server.folder, ["sleep", "60"])) as bystander:
        pid_file.write_text(f"{bystander.pid}\n{rest}")
        server.socket_dir.mkdir(mode=0o700, exist_ok=True)
        (server.socket_dir / ".s.PGSQL.5432.lock").write_text(f"{bystander.pid}\n{rest}")

        async with EmbeddedPostgres.run(data_dir) as server:
            assert await read(server) == ["kept"]
        assert bystander.poll() is None


async def test_a_pid_file_that_was_cut_short_does_not_keep_it_from_starting(data_dir: Path) -> None:
    (data_dir / "postgres" / "data" / "postmaster.pid").touch()

    async with EmbeddedPostgres.run(data_dir) as server:
        assert await read(server) == ["kept"]


async def test_when_it_dies_it_is_started_again_with_all_that_was_committed(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        died = server.pid
        assert died is not None

        async def back() -> bool:
            try:
                return await read(server) == ["kept"]
            except psycopg.OperationalError:
                return False

        with capture_logs() as lines:
            os.kill(died, signal.SIGKILL)
            await until(lambda: server.pid not in (None, died))
            await until(back)
            await until(lambda: len(lines) > 1)

    assert [line["event"] for line in lines] == ["postgres.died", "postgres.restarted"]


async def test_a_second_tintype_on_the_same_data_is_refused_and_disturbs_nothing(data_dir: Path) -> None:
    async with EmbeddedPostgres.run(data_dir) as server:
        with pytest.raises(DatabaseUnavailable, match=rf"Another Tintype \(process {os.getpid()}\) uses"):
            async with EmbeddedPostgres.run(data_dir):
                pass

        await write(server, "undisturbed")


async def test_an_initdb_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    half = tmp_path / "data" / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")

    async with EmbeddedPostgres.run(tmp_path / "data") as server:
        await write(server, "works")
    assert not half.exists()


async def test_a_start_that_fails_says_why_and_what_to_do(data_dir: Path) -> None:
    configuration = data_dir / "postgres" / "data" / "postgresql.conf"
    configuration.write_text("shared_preload_libraries = 'nothing'\n")

    with pytest.raises(DatabaseUnavailable) as refused:
        async with EmbeddedPostgres.run(data_dir):
            pass

    assert "TINTYPE_DATABASE__URL" in str(refused.value)
    assert 'could not access file "nothing"' in str(refused.value)


async def test_the_log_does_not_grow_for_ever_and_tells_nothing_of_what_is_stored(data_dir: Path) -> None:
    log = data_dir / "postgres" / "server.log"
    log.write_bytes(b"old\n" * 300_000)

    async with EmbeddedPostgres.run(data_dir) as server:
        with pytest.raises(psycopg.DataError):
            await run(server.url, "SELECT note::int, 'statement' FROM notes")

    assert log.stat().st_size < 10_000
    assert "statement" not in log.read_text()
    assert log.with_suffix(".log.old").stat().st_size == 1_200_000


async def test_data_of_another_version_is_not_touched(data_dir: Path) -> None:
    (data_dir / "postgres" / "data" / "PG_VERSION").write_text("17\n")

    with pytest.raises(DatabaseUnavailable, match=r"PostgreSQL 17.*brings 18"):
        async with EmbeddedPostgres.run(data_dir):
            pass


async def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DatabaseUnavailable, match="file"):
        async with EmbeddedPostgres.run(tmp_path / "file"):
            pass
