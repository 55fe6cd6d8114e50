"""Put the suite to a server: python -m conformance URL [--header 'Name: value'] [--json FILE]."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from conformance import cases
from conformance.suite import CASES, Server, run

MARKS = {"pass": "ok", "fail": "FAIL", "not offered": "-"}


def main() -> int:
    """Print a table of all cases; the exit status is 1 where one failed."""
    parser = argparse.ArgumentParser(prog="conformance", description=cases.__doc__)
    parser.add_argument("url", help="where uploads are created")
    parser.add_argument("--header", action="append", default=[], help="sent with every request")
    parser.add_argument("--json", type=Path, help="where the results are written to as well")
    asked = parser.parse_args()
    headers = {name.strip(): value.strip() for name, _, value in (h.partition(":") for h in asked.header)}
    server = Server(asked.url, headers)
    results = [run(server, each) for each in CASES]
    for each in results:
        line = f"{MARKS[each.verdict]:>4}  {each.case.group:<22} {each.case.name}"
        sys.stdout.write(line + (f"\n      {each.reason}" if each.verdict == "fail" else "") + "\n")
    counts = Counter(each.verdict for each in results)
    summed = ", ".join(f"{number} {name}" for name, number in counts.items())
    sys.stdout.write(f"\n{len(results)} cases: {summed}\n")
    if asked.json:
        told = [
            {"group": r.case.group, "name": r.case.name, "level": r.case.level, "verdict": r.verdict,
             "reason": r.reason}
            for r in results
        ]  # fmt: skip
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if counts["fail"] else 0


if __name__ == "__main__":
    sys.exit(main())
