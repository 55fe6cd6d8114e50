"""A folder on this machine's disk for what is put together from the object store, or on its way there."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tintype.model.errors import StorageUnavailable


@contextmanager
def workspace(spool: Path, prefix: str) -> Generator[Path]:
    """Give an empty folder for the time of the block.

    Raises `StorageUnavailable` where the disk fails: whoever needs it goes on when it is back.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=spool) as name:
            yield Path(name)
    except OSError as error:
        raise StorageUnavailable(f"The disk for files on their way failed: {error}") from error
