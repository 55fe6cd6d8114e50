"""No call leaves the process without an end, nor in threads that others need."""

from pathlib import Path

import pytest

import tintype
from faults.outside_calls import Finding, in_shared_threads, packages, without_end

SOURCE = Path(tintype.__file__).parent
MODULES = {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}

WITHOUT_END = {
    ("catalogue/embedded.py", "self._process.wait"): "Its keeper waits for the server's death, all its life.",
    ("imaging/process.py", "self._process.wait"): "The cage waits for a worker's death, all its life; a job "
    "that takes too long has the worker killed.",
}
"""What may wait for ever, and why."""
IN_SHARED_THREADS = {
    (
        "messaging/mail.py",
        "asyncio.to_thread",
    ): "A laptop's mails are files; those of SES have their threads.",
    ("server/instance.py", "asyncio.to_thread"): "Once, at the start, for a second at most.",
}


def findings(of: "dict[str, list[Finding]]", excused: dict[tuple[str, str], str]) -> list[str]:
    """Return what nothing excuses, and the excuses that nobody needs."""
    found = {(name, each.call): each for name, several in of.items() for each in several}
    return [
        f"{name}:{each.line}: {each.call} lacks {each.lacks}"
        for (name, call), each in found.items()
        if (name, call) not in excused
    ] + [f"{name}: nothing to excuse for {call}" for name, call in excused.keys() - found.keys()]


def test_no_call_waits_for_ever() -> None:
    assert not findings({name: [*without_end(text)] for name, text in MODULES.items()}, WITHOUT_END)


def test_whoever_waits_for_a_network_does_so_in_threads_of_their_own() -> None:
    found = {name: [*in_shared_threads(text)] for name, text in MODULES.items()}
    assert not findings(found, IN_SHARED_THREADS)


def test_every_package_that_speaks_over_a_network_has_its_rules() -> None:
    spoken = set[str]().union(*map(packages, MODULES.values()))
    assert spoken == {
        *(
            "aiosmtplib",
            "boto3",
            "botocore",
            "http",
            "httpx",
            "obstore",
            "psycopg",
            "psycopg_pool",
            "urllib.request",
        ),
    }


@pytest.mark.parametrize(
    "call",
    [
        "boto3.client('sns')",
        "boto3.Session().client('s3', config=Config(connect_timeout=1, retries={}))",
        "boto3.session.Session().client('s3', config=None)",
        "aws_session().client('sns')",
        "S3Store('bucket', client_options={})",
        "httpx.AsyncClient()",
        "httpx.get('https://example.org', timeout=None)",
        "aiosmtplib.send(mail, hostname='localhost')",
        "urllib.request.urlopen('https://example.org')",
        "http.client.HTTPSConnection('example.org')",
        "socket.create_connection(('example.org', 443))",
        "await psycopg.AsyncConnection.connect(url)",
        "AsyncConnectionPool(url, timeout=2)",
        "subprocess.run(['true'])",
        "await loop.getaddrinfo('example.org', 443)",
        "await asyncio.open_connection('example.org', 443)",
        "await self._process.wait()",
    ],
)
def test_a_call_without_an_end_is_found(call: str) -> None:
    assert [*without_end(f"async def ask():\n    async with lock:\n        {call}")]


@pytest.mark.parametrize(
    "call",
    [
        "boto3.client('s3', config=Config(connect_timeout=1, read_timeout=1, retries={}))",
        "httpx.AsyncClient(timeout=1)",
        "await asyncio.wait_for(self._process.wait(), 1)",
        "await Tx.connect(await _conninfo(url, settings))",
    ],
)
def test_a_call_with_an_end_is_none(call: str) -> None:
    assert not [*without_end(f"async def ask():\n    {call}")]
    assert not [*without_end("async with asyncio.timeout(1):\n    await loop.getaddrinfo('a', 1)")]


@pytest.mark.parametrize(
    "source",
    [
        "import boto3\nasyncio.to_thread(request)",
        "import urllib.request\nloop.run_in_executor(None, request)",
        "loop.getaddrinfo('example.org', 443)",
    ],
)
def test_a_wait_in_threads_of_everybody_is_found(source: str) -> None:
    assert [*in_shared_threads(source)]
