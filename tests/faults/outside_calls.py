"""Finds, in source text, calls that leave the process and may wait for ever, or in threads of others."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BLOCKING = {
    "boto3",
    "botocore",
    "http",
    "urllib3",
    "requests",
    "smtplib",
    "ftplib",
    "imaplib",
    "telnetlib",
    "xmlrpc",
}
"""Packages whose calls hold a thread while they wait for a network; `urllib.parse` does not."""
SPEAKERS = BLOCKING | {
    *("aiobotocore", "aiohttp", "aiosmtplib", "asyncpg", "grpc", "httpcore", "httpx", "obstore", "psycopg"),
    *("psycopg_pool", "redis", "socketserver", "tornado", "websockets"),
}
"""Packages that speak over a network."""


@dataclass(frozen=True, slots=True)
class Finding:
    line: int
    call: str
    """As it stands in the source, without its arguments."""
    lacks: str


def packages(source: str) -> set[str]:
    """Return the packages that a module imports and that speak over a network."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        found |= {"urllib.request" if name == "urllib.request" else name.split(".")[0] for name in names}
    return found & (SPEAKERS | {"urllib.request"})


def without_end(source: str) -> Iterator[Finding]:
    """Yield the calls that nothing ends when nobody answers."""
    tree = ast.parse(source)
    for call, above in _calls(tree):
        name = ast.unparse(call.func)
        for belongs, lacks in _RULES:
            if belongs(name) and (lacking := lacks(call, above)):
                yield Finding(call.lineno, name, lacking)


def in_shared_threads(source: str) -> Iterator[Finding]:
    """Yield the calls by which a module that waits for a network does so in the threads of everybody."""
    speaks = packages(source) & (BLOCKING | {"urllib.request"})
    for call, _ in _calls(ast.parse(source)):
        name = ast.unparse(call.func)
        nobodys = name.endswith("run_in_executor") and ast.unparse(call.args[0]) == "None"
        if name.endswith("loop.getaddrinfo") or (speaks and (name == "asyncio.to_thread" or nobodys)):
            yield Finding(call.lineno, name, "threads of its own")


def _calls(node: ast.AST, above: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.Call, tuple[ast.AST, ...]]]:
    """Yield each call with what it stands in, inside of its own function."""
    if isinstance(node, ast.Call):
        yield node, above
    inner = () if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) else (*above, node)
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inner)


Lacks = Callable[[ast.Call, tuple[ast.AST, ...]], str]


def _named(*names: str) -> Callable[[str], bool]:
    return lambda name: any(name == each or name.endswith(f".{each}") for each in names)


def _arguments(*wanted: str) -> Lacks:
    def lacks(call: ast.Call, _above: tuple[ast.AST, ...]) -> str:
        given = {each.arg for each in call.keywords if ast.unparse(each.value) != "None"}
        return ", ".join(each for each in wanted if each not in given)

    return lacks


def _client_of_aws(call: ast.Call, above: tuple[ast.AST, ...]) -> str:
    """Look at the `Config`: botocore's own waits for a minute, five times."""
    config = next((each.value for each in call.keywords if each.arg == "config"), None)
    if not isinstance(config, ast.Call):
        return "config"
    return _arguments("connect_timeout", "read_timeout", "retries")(config, above)


def _connection(call: ast.Call, above: tuple[ast.AST, ...]) -> str:
    """Look whether the time is an argument, or in the URL that the pool's connections have, too."""
    if any("_conninfo(" in ast.unparse(each) for each in call.args):
        return ""
    return _arguments("connect_timeout")(call, above)


def _deadline(_call: ast.Call, above: tuple[ast.AST, ...]) -> str:
    for each in above:
        if isinstance(each, ast.AsyncWith) and any(
            ast.unparse(item.context_expr).startswith("asyncio.timeout(") for item in each.items
        ):
            return ""
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "asyncio.wait_for":
            return ""
    return "asyncio.timeout"


_RULES: tuple[tuple[Callable[[str], bool], Lacks], ...] = (
    (
        lambda name: name.startswith(("boto3", "aws_session")) and name.endswith((".client", ".resource")),
        _client_of_aws,
    ),
    (_named("S3Store"), _arguments("client_options", "retry_config")),
    (lambda name: name.startswith("httpx.") and name.split(".")[1] in _OF_HTTPX, _arguments("timeout")),
    (_named("aiosmtplib.send", "aiosmtplib.SMTP", "urlopen", "_opener().open"), _arguments("timeout")),
    (_named("HTTPConnection", "HTTPSConnection", "socket.create_connection"), _arguments("timeout")),
    (_named("AsyncConnection.connect", "Tx.connect", "psycopg.connect"), _connection),
    (_named("AsyncConnectionPool"), _arguments("timeout", "reconnect_timeout")),
    (_named("subprocess.run", "subprocess.check_output", "subprocess.check_call"), _arguments("timeout")),
    (_named("loop.getaddrinfo", "open_connection", "open_unix_connection", "create_connection"), _deadline),
    (_named("process.wait", "_process.wait", "process.communicate"), _deadline),
)
_OF_HTTPX = {"AsyncClient", "Client", "delete", "get", "head", "patch", "post", "put", "request", "stream"}
