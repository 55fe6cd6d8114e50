"""The machine and the versions that a result belongs to."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("tintype", "fastapi", "uvicorn", "uvloop", "obstore", "psycopg", "boto3", "sqlalchemy", "pyvips")


def describe() -> dict[str, str]:
    """Return what a reader needs to judge the numbers, as it is now."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "system": _system(),
        "python": platform.python_version(),
        "C library": " ".join(platform.libc_ver()),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def load_average() -> str:
    """Return the load over the last 1, 5 and 15 minutes: what else the machine was doing."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _processor() -> str:
    return _field(Path("/proc/cpuinfo"), "model name", ":") or platform.processor() or platform.machine()


def _system() -> str:
    return _field(Path("/etc/os-release"), "PRETTY_NAME", "=") or platform.system()


def _field(file: Path, name: str, separator: str) -> str:
    """Return the first value of that name in a file of names and values; empty if there is none."""
    if not file.exists():
        return ""
    for line in file.read_text().splitlines():
        found, _, value = line.partition(separator)
        if found.strip() == name:
            return value.strip().strip('"')
    return ""
