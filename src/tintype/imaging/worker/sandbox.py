"""The walls of the cage: what a worker may use, and whom it may outlive (nobody)."""

import contextlib
import ctypes
import gc
import math
import os
import resource
import signal
import sys
from pathlib import Path

from tintype.imaging.worker import seccomp

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_OPEN_FILES = 16


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the one that started it goes, even by SIGKILL.

    Before that it stays: a service that is told to stop still finishes what it has begun, and
    systemd sends SIGTERM to all its processes.
    """
    for request in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(request, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before the kernel was asked
        sys.exit(1)


def confine(memory: int) -> str:
    """Give up all rights that decoding does not need; `memory` is in bytes above what is used now.

    Returns what holds: "seccomp", or only "rlimits" where the kernel refuses a filter.
    """
    gc.collect()
    gc.freeze()  # what is loaded now stays: collecting never walks it again
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _address_space() + memory)
        # No RLIMIT_NPROC: decoders start threads, which count as processes of the same user, whose
        # other processes nobody can foresee. The filter tells threads from processes instead.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _silence()
    return "seccomp" if seccomp.install() else "rlimits"


def allow_cpu(seconds: int) -> None:
    """Let this process use so many more seconds; then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime) + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(which: int, value: int) -> None:
    with contextlib.suppress(ValueError):  # the limit is lower already
        resource.setrlimit(which, (value, value))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _silence() -> None:
    """Send what libraries print to nowhere: it would carry a stranger's bytes into the log."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
