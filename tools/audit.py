"""`python tools/audit.py UV`: known weaknesses in what the lock file names; fails when it could not look.

pip-audit passes over what it cannot find, and over a database that does not answer, unless it is told
not to. So its report is held against the lock: a package that is not in it was not audited.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXPORT = (
    *("export", "--locked", "--all-packages", "--all-extras", "--all-groups", "--no-emit-workspace"),
    *("--no-header", "--quiet"),
)
WEAK, UNKNOWN = 1, 2


def main(uv: str) -> int:
    """Audit all of the lock, and return the exit status: 0 only if all of it was, and nothing was found."""
    locked = subprocess.run([uv, *EXPORT], check=True, capture_output=True, text=True).stdout  # noqa: S603
    wanted = set(re.findall(r"^([A-Za-z0-9._-]+)==", locked, re.MULTILINE))
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(locked)
        command = [sys.executable, "-m", "pip_audit", "--strict", "--disable-pip", "--require-hashes"]
        command += ["--progress-spinner=off", "--format=json", "--timeout=20", "-r", str(requirements)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    told = _report(done.stdout)
    audited = {each["name"] for each in told if "vulns" in each}
    weak = [each for each in told if each.get("vulns")]
    for each in weak:
        ids = ", ".join(found["id"] for found in each["vulns"])
        print(f"{each['name']} {each['version']}: {ids}")
    if weak:
        print(f"{len(weak)} packages of the lock have known weaknesses.", file=sys.stderr)
        return WEAK
    missing = wanted - audited
    if missing or done.returncode != 0:
        print(
            f"NOT AUDITED: {len(missing)} of {len(wanted)} packages could not be looked up, so nothing is "
            "known of them. The database of weaknesses has to be within reach. pip-audit says:\n"
            f"{_last_line(done.stderr)}",
            file=sys.stderr,
        )
        return UNKNOWN
    print(f"{len(audited)} packages of the lock have no known weakness.")
    return 0


def _report(text: str) -> list[dict[str, Any]]:
    try:
        return json.loads(text)["dependencies"]
    except (ValueError, KeyError):
        return []


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
