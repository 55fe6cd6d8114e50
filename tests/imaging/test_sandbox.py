"""A worker that was taken over can open, connect, start and signal nothing.

Each probe confines a process of its own by the function that workers use, and then tries.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import ctypes, json, mmap, os, resource, socket, subprocess, sys, threading
from pathlib import Path
from tintype.imaging.worker import sandbox

channel = socket.socket(fileno=int(sys.argv[1]))
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)

def system_call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")

def in_thread():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

def in_old_thread():
    work.set()
    done.wait(5)
    if failures:
        raise failures[0]

work, done, failures = threading.Event(), threading.Event(), []

def wait_and_open():
    work.wait()
    try:
        open("/etc/passwd")
    except OSError as error:
        failures.append(error)
    done.set()

threading.Thread(target=wait_and_open, daemon=True).start()
TRIALS = {
    "read a file": lambda: open("/etc/passwd"),
    "write a file": lambda: open(sys.argv[2], "w"),
    "list a folder": lambda: os.listdir("/"),
    "delete a file": lambda: os.unlink(sys.argv[2]),
    "look at a path": lambda: os.stat("/etc/passwd"),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a local socket": lambda: socket.socketpair(),
    "fork": lambda: os.fork() or os._exit(0),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "start a child": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "signal the parent": lambda: os.kill(parent, 0),
    "trace the parent": lambda: system_call(libc.ptrace, 16, parent, 0, 0),
    "read the parent's memory": lambda: system_call(libc.process_vm_readv, parent, None, 0, None, 0, 0),
    "change the parent's limits": lambda: resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1)),
    "map memory that can run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "make memory run": lambda: system_call(libc.mprotect, ctypes.c_void_p(id(TRIALS) & ~4095), 4096, 5),
    "change a name": lambda: system_call(libc.prctl, 4, 1, 0, 0, 0),
    "enter a namespace": lambda: system_call(libc.unshare, 0x10000000),
    "open in an older thread": in_old_thread,
    "start a thread": in_thread,
    "reserve memory": lambda: mmap.mmap(-1, 64 << 20),
    "reserve very much memory": lambda: mmap.mmap(-1, 512 << 20),
}
kind = sandbox.confine(256 << 20)
outcomes = {}
for name, trial in TRIALS.items():
    try:
        trial()
        outcomes[name] = "done"
    except OSError as error:
        outcomes[name] = error.errno
    except MemoryError:
        outcomes[name] = "no memory"
channel.sendall(json.dumps([kind, outcomes]).encode())
"""
EPERM, ENOMEM = 1, 12


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What became of each attempt in a confined process."""
    file = tmp_path_factory.mktemp("sandbox") / "file"
    file.write_text("untouched")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", PROBE, str(theirs.fileno()), str(file)]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as probe:
            theirs.close()
            message = b"".join(iter(lambda: ours.recv(65_536), b""))
            probe.wait(timeout=30)
    kind, found = json.loads(message)
    if kind != "seccomp":
        pytest.skip("this kernel refuses seccomp filters: workers have resource limits only")
    assert file.read_text() == "untouched"
    return found


@pytest.mark.parametrize(
    "attempt",
    [
        "read a file",
        "write a file",
        "list a folder",
        "delete a file",
        "look at a path",
        "open a socket",
        "open a local socket",
        "fork",
        "start a program",
        "start a child",
        "signal the parent",
        "trace the parent",
        "read the parent's memory",
        "change the parent's limits",
        "map memory that can run",
        "make memory run",
        "change a name",
        "enter a namespace",
        "open in an older thread",
    ],
)
def test_a_confined_process_cannot(outcomes: dict[str, object], attempt: str) -> None:
    assert outcomes[attempt] == EPERM


@pytest.mark.parametrize("need", ["start a thread", "reserve memory"])
def test_a_confined_process_can_still(outcomes: dict[str, object], need: str) -> None:
    assert outcomes[need] == "done"


def test_a_confined_process_has_a_bounded_address_space(outcomes: dict[str, object]) -> None:
    assert outcomes["reserve very much memory"] == ENOMEM


def test_a_confined_process_says_nothing_to_the_log(tmp_path: Path) -> None:
    code = (
        "from tintype.imaging.worker import sandbox; sandbox.confine(1 << 28); print('stranger', flush=True)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=False)
    assert said.stdout == said.stderr == b""
