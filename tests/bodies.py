"""Bodies of random bytes, in memory or in a spool file, and what they hold."""

import hashlib
import os
import random
from pathlib import Path

from tintype.model.body import Body
from tintype.model.ids import new_id
from tintype.objects.keys import original_key


def content(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def in_memory(data: bytes) -> Body:
    return Body(len(data), hashlib.sha256(data).digest(), memory=data)


def in_file(data: bytes, folder: Path) -> Body:
    """A body as ingest spools it: in a file without a name."""
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    return Body(len(data), hashlib.sha256(data).digest(), file=file)


def new_key() -> str:
    return original_key(new_id())
