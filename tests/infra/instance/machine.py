"""A fresh Debian 13, booted with systemd in a container that shares this machine's network."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter")
PACKAGES = "systemd,systemd-sysv,dbus,curl,ca-certificates,python3"
"""What Debian's image for EC2 has, as far as an instance's first commands use it."""
BOOT_SECONDS = 60
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of Debian's root."""


class Unavailable(Exception):
    """Why there can be no such machine here."""


@dataclass(frozen=True)
class Machine:
    """A running one. `leader` is its first process."""

    leader: int

    def run(self, *command: str, check: bool = True, text: str | None = None) -> str:
        """Return what a command prints there, on either stream."""
        entered = ["nsenter", "--target", str(self.leader), "--all", "--", *command]
        done = subprocess.run(
            entered,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            input=text,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        self.run("install", "-D", "-m", "0640", "/dev/stdin", path, text=text)


def prepare() -> Path:
    """Return the root of a Debian 13 as it is installed, made by the first call and kept for later ones.

    Raises `Unavailable` with what is missing.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        raise Unavailable("only root can boot a machine")
    if missing:
        raise Unavailable(
            f"not installed: {', '.join(missing)} (apt-get install debootstrap systemd-container)"
        )
    root = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tintype/debian-13"
    if not root.exists():
        unfinished = root.with_name("debian-13.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(unfinished)]
        done = subprocess.run(make, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"Debian 13 could not be installed: {done.stdout[-300:]}")
        unfinished.rename(root)
    return root


@contextmanager
def booted(root: Path, log: Path) -> Iterator[Machine]:
    """Boot a machine whose changes are kept in memory, and pull its plug at the end."""
    command = [
        *("systemd-nspawn", "--quiet", "--directory", str(root), "--boot", "--volatile=overlay"),
        *("--register=no", "--keep-unit", "--machine", f"tintype-{os.getpid()}", "--console=pipe"),
    ]
    # systemd 257 knows no other cgroups, whatever this machine has.
    environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    with log.open("w") as console:
        container = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=environment,
            start_new_session=True,
        )
    try:
        yield _once_up(container, log)
    finally:
        container.send_signal(signal.SIGTERM)
        try:
            container.wait(20)
        except subprocess.TimeoutExpired:
            container.kill()
            container.wait()


def _once_up(container: "subprocess.Popen[bytes]", log: Path) -> Machine:
    ends = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < ends and container.poll() is None:
        with contextlib.suppress(OSError, ValueError, AssertionError):
            children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
            machine = Machine(int(children[0])) if children else None
            state = "" if machine is None else machine.run("systemctl", "is-system-running", check=False)
            if machine is not None and state.strip() in {"running", "degraded"}:
                return machine
        time.sleep(0.2)
    raise AssertionError(f"the machine did not boot:\n{log.read_text()[-3000:]}")
