"""`make faults`: the long form of every test that breaks something, and the table of what became of it.

python -m faults [--docs] [what pytest takes] ; --docs writes the table into docs/reliability.md as well.
"""

import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from faults import table
from tintype_bench import machine

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by make faults -->\n", "<!-- until here -->\n"


def main(arguments: list[str]) -> int:
    """Return pytest's exit status, or 1 where a row tells of a loss."""
    into_docs = "--docs" in arguments
    wanted = [each for each in arguments if each != "--docs"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "faults", "--timeout", "3600", *wanted]
        environment = os.environ | {table.ROWS: str(path)}
        status = subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode
        rows = table.recorded(path)
    sys.stdout.write(f"\n{_heading()}\n\n{table.terminal(rows)}")
    if into_docs:
        _replace_in(PAGE, f"{_heading()}\n\n{table.markdown(rows)}")
    return status or int(any(row.lost or row.duplicated for row in rows))


def _heading() -> str:
    here = machine.describe()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {here['processor']}, {here['cores']} cores, {here['memory']}, "
        f"{here['system']}, Linux {here['kernel']}"
    )


def _replace_in(page: Path, made: str) -> None:
    found = re.compile(f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", re.DOTALL)
    text, count = found.subn(lambda _: made, page.read_text())
    if not count:
        sys.exit(f"{page} has no place for the table.")
    page.write_text(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
