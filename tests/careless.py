"""`python careless.py serve …`: Tintype whose statements forget to ask for the owner."""

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from tintype import cli
from tintype.catalogue.database import Tx

COMMAND = [sys.executable, str(Path(__file__)), "serve", "--port", "0"]
FORGOT = "a statement forgot its owner"


def without_owner(statement: str) -> tuple[str, int]:
    """Return a statement without its conditions on the owner, and how many those were."""
    return re.subn(r"(?<!SET )\bowner = (%s|%\(\w+\)s|for_owner)", r"\1::text IS NOT NULL", statement)


def forget() -> None:
    """Have all statements of this process lose these conditions, and tell of each."""
    execute = cast("Callable[..., Awaitable[Any]]", Tx.execute)
    known: set[str] = set()

    async def careless(tx: Tx, query: object, *args: Any, **how: Any) -> Any:  # noqa: ANN401 # as `execute`
        if isinstance(query, str):
            query, dropped = without_owner(query)
            if dropped and query not in known:
                known.add(query)
                print(FORGOT, flush=True)  # noqa: T201
        return await execute(tx, query, *args, **how)

    Tx.execute = careless  # type: ignore[method-assign,assignment] # this is what the process is for


if __name__ == "__main__":
    forget()
    cli.main()
