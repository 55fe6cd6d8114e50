"""The disk of these tests keeps what was synced and nothing else, or the tests that use it prove nothing."""

import subprocess
import sys
from pathlib import Path

from faults.disk import Disk, needs_strace, traced

PROGRAM = """
import os, sys
os.chdir(sys.argv[1])
def write(name, *, sync):
    with open(name, "a") as file:
        file.write("new")
        file.flush()
        sync and os.fsync(file.fileno())
def sync_folder(name):
    folder = os.open(name, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
write("safe", sync=True)
write("old-synced", sync=True)
write("old", sync=False)
write("empty", sync=False)
write("moved.part", sync=True)
os.rename("moved.part", "moved")
os.mkdir("folder")
write("folder/in-it", sync=True)
sync_folder("folder")
os.mkdir("lost")
sync_folder(".")
write("late", sync=True)
write("safe-then-written", sync=True)
os.mkdir("lost-folder")
write("lost-folder/in-it", sync=True)
sync_folder("lost-folder")
write("lost/in-it", sync=True)
unnamed = os.open(".", os.O_TMPFILE | os.O_RDWR)
os.write(unnamed, b"new")
os.fsync(unnamed)
os.link(f"/proc/self/fd/{unnamed}", "linked", dst_dir_fd=os.open(".", os.O_RDONLY), follow_symlinks=True)
os.rename("old-synced", "replaced")
"""


@needs_strace
def test_what_was_not_synced_is_gone(tmp_path: Path) -> None:
    folder, before = tmp_path / "folder", tmp_path / "before"
    for each in (folder, before):
        each.mkdir()
        for name in ("old", "old-synced", "replaced"):
            (each / name).write_text("old")
    program = traced([sys.executable, "-c", PROGRAM, str(folder)], tmp_path / "record")
    subprocess.run(program, check=True, timeout=60)

    Disk(folder, before, home=folder).follow(tmp_path / "record").cut_power()

    left = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    assert {name: path.read_text() for name, path in left.items() if path.is_file()} == {
        "safe": "new",
        "old": "old",
        "replaced": "old",
        "empty": "",
        "moved": "new",
        "folder/in-it": "new",
    }
    assert {name for name, path in left.items() if path.is_dir()} == {"folder", "lost"}
