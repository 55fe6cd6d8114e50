"""The serving process: parts opened, a socket bound, requests answered until a signal, everything closed."""

import asyncio
import ctypes
import gc
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http import httptools_impl

from tintype.server.app import create_app
from tintype.server.connection import Connection
from tintype.server.context import Context
from tintype.server.instance import Instance
from tintype.settings import Settings
from tintype.wiring import at_work, open_parts

READ_AHEAD_BYTES = 128 * 1024
"""What uvicorn reads of a body before its handler asks for it. With its own 64 KB it stops and starts all
the time. More saves a little more, and adds memory to each upload."""
GARBAGE_THRESHOLDS = 10_000, 50, 100
"""Of the garbage collector: what a request makes is let go by counting, and hardly any of it is garbage."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's names, from malloc.h (mallopt(3))."""


async def serve_forever(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then let requests in flight end and close every part.

    After SIGTERM a balancer is given time to look elsewhere: requests that it still sends are answered.
    """
    _tune_malloc(settings.malloc_threshold_bytes)
    httptools_impl.HIGH_WATER_LIMIT = READ_AHEAD_BYTES  # pyright: ignore[reportPrivateImportUsage]: read there
    with _listen(settings.host, settings.port) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})  # mails lead here
        async with open_parts(settings) as parts, at_work(parts):
            context = Context.of(parts)
            server = _Server(_config(settings, context), context.instance, settings.linger_seconds)
            listener.listen(server.config.backlog)  # whoever reads the greeting may connect at once
            _collect_seldom()
            _greet(settings, settings.port, parts.objects.location)
            await server.serve(sockets=[listener])


class CannotListen(Exception):
    """The address is taken, or not this machine's."""


class _Server(uvicorn.Server):
    """uvicorn, which would raise the signal again after its end, before the parts are closed."""

    def __init__(self, config: uvicorn.Config, instance: Instance, linger_seconds: float) -> None:
        super().__init__(config)
        self._instance = instance
        self._linger_seconds = linger_seconds

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Begin to drain at the first signal; each further one makes it quicker."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._drain, number)
        yield

    def _drain(self, number: int) -> None:
        lingering = number == signal.SIGTERM and not self._instance.draining
        self._instance.drain()
        # From the next tick on every answer ends its connection: at the end none is left that is idle, and
        # into which a balancer might send a request just then.
        self.config.encoded_headers.append((b"connection", b"close"))
        wait = self._linger_seconds if lingering else 0
        asyncio.get_running_loop().call_later(wait, self.handle_exit, number, None)


def _config(settings: Settings, context: Context) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(context),
        http=_paced(settings.limits.min_bytes_per_second),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )


def _paced(least: int) -> type[Connection]:
    """Return the protocol for clients that take at least so many bytes a second."""

    class Paced(Connection):
        min_bytes_per_second = least

    return Paced


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything is opened: a port that is taken is the first thing to say."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotListen(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port."
        ) from error
    return listener


def _tune_malloc(threshold: int) -> None:
    """Keep the buffers of bodies in the heap: glibc maps and unmaps each of them otherwise.

    Measured to be half of the cost of receiving a large body; the price is a heap that stays near its peak.
    """
    if threshold and sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, threshold)
            mallopt(M_TRIM_THRESHOLD, threshold)


def _collect_seldom() -> None:
    """Have the garbage collector pass over what is there now, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _identity(settings: Settings) -> str:
    if settings.identity.mode == "local":
        return "none: nobody is asked, and only this machine is listened to"
    return "API keys, from `tintype keys create`"


def _greet(settings: Settings, port: int, objects: str) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = f"http://{host}:{port}"
    database = (
        "PostgreSQL in the data directory" if settings.database.url is None else "PostgreSQL as configured"
    )
    print(  # noqa: T201 # a person reads this on the terminal
        f"\n  Tintype serves on {base}\n\n"
        f"  images     {objects}\n"
        f"  catalogue  {database}\n"
        f"  data       {settings.data_dir.resolve()}\n"
        f"  identity   {_identity(settings)}\n"
        f"  try        curl -F file=@picture.jpg {base}/v1/images\n"
        f"  browse     {base}/docs\n\n"
        "  Ctrl-C ends it.\n",
        flush=True,
    )
