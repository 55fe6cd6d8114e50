"""`python tools/sbom.py FILE`: what Tintype is made of (CycloneDX), C libraries inside of wheels included.

Wheels tell of them by a list of their own (PEP 770), if at all. What else a wheel has bundled is found
by looking: every shared library and program in it, and the versions that these say they have.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Requirement("tintype[heic]")

# How libraries tell their versions within a binary. Several can be linked into one.
_SAID = {
    "aom": rb"AOMedia Project AV1 Decoder v(\d+\.\d+\.\d+)",
    "expat": rb"expat_(\d+\.\d+\.\d+)",
    "libarchive": rb"libarchive (\d+\.\d+\.\d+)",
    "libjpeg-turbo": rb"libjpeg-turbo version (\d+\.\d+(?:\.\d+)?)",
    "libpng": rb"(?:libpng version |\0)(1\.6\.\d+)[\0 ]",
    "libtiff": rb"LIBTIFF, Version (\d+\.\d+(?:\.\d+)?)",
    "libvips": rb"\0(8\.\d+\.\d+)\0",
    "mozjpeg": rb"mozjpeg version (\d+\.\d+(?:\.\d+)?)",
    "openssl": rb"OpenSSL (\d+\.\d+\.\d+)",
    "postgresql": rb"\(PostgreSQL\) (\d+\.\d+)",
    "zlib": rb"deflate (\d+\.\d+(?:\.\d+)*) Copyright",
    "zlib-ng": rb"\0(\d+\.\d+\.\d+\.zlib-ng)\0",
}
_ONLY_IN = {"libvips": "libvips", "libpng": "libpng libvips", "openssl": "libssl libcrypto"}
"""Patterns that others have too, by the libraries in which they mean something."""
_SILENT = {
    "cgif": b"cgif",
    "libheif": b"heif_",
    "libimagequant": b"quantis",
    "librsvg": b"rsvg",
    "libultrahdr": b"uhdr_",
    "libwebp": b"WebP",
    "highway": b"hwy",
}
"""What the packagers of libvips link into it without a version that can be read, by what shows it."""
_LIBRARY = re.compile(
    r"(?P<name>lib[\w+.]+?)(?:-[0-9a-f]{8}|64_-[0-9a-f]{8})?(?:\.(?P<version>[\d.]+))?\.(?:so|dylib)(?:\.(?P<soname>[\d.]+))?"
)
_EXTENSION = re.compile(r"\.(cpython-|abi3\.)")


def main(out: Path) -> None:
    """Write the bill of what is installed here and belongs to the service."""
    bom = Bom()
    bom.metadata.component = Component(
        name="tintype", version=distribution("tintype").version, type=ComponentType.APPLICATION
    )
    for each in sorted(closure(), key=lambda found: found.name.lower()):
        if each.name != "tintype":
            bom.components.add(component_of(each))
    bom.register_dependency(bom.metadata.component, list(bom.components))
    out.parent.mkdir(parents=True, exist_ok=True)
    JsonV1Dot6(bom).output_to_file(str(out), allow_overwrite=True, indent=2)


def closure() -> list[Distribution]:
    """Return everything that the service needs at run time, as it is installed."""
    found: dict[str, Distribution] = {}
    waiting = [ROOT]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        package = found.setdefault(name, distribution(name))
        for text in package.requires or ():
            needed = Requirement(text)
            extras = wanted.extras or {""}
            is_needed = needed.marker is None or any(
                needed.marker.evaluate({"extra": each}) for each in extras
            )
            if is_needed and (canonicalize_name(needed.name) not in found or needed.extras):
                waiting.append(needed)
    return list(found.values())


def component_of(package: Distribution) -> Component:
    """Return a package with all that its wheel has in it."""
    name = canonicalize_name(package.name)
    purl = PackageURL("pypi", None, name, package.version)
    component = Component(
        name=name, version=package.version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl)
    )
    component.components.update(told_by(package))
    component.components.update(bundled_in(package))
    return component


def told_by(package: Distribution) -> Iterator[Component]:
    """Yield what the wheel says of itself (PEP 770)."""
    for file in package.files or ():
        if file.parent.name == "sboms" and file.name.endswith(".cdx.json"):
            for each in json.loads(Path(str(file.locate())).read_bytes()).get("components", ()):
                if canonicalize_name(each["name"]) != canonicalize_name(package.name):
                    purl = PackageURL.from_string(each["purl"]) if "purl" in each else None
                    yield Component(
                        name=each["name"],
                        version=each.get("version"),
                        type=ComponentType.LIBRARY,
                        purl=purl,
                        properties=[
                            Property(name="tintype:found", value=f"told by the wheel in {file.name}")
                        ],
                    )


def bundled_in(package: Distribution) -> Iterator[Component]:
    """Yield the shared libraries in the wheel, each with what is linked into it, and of what programs are."""
    seen: set[str] = set()
    programs: dict[tuple[str, str | None], Component] = {}
    for file in package.files or ():
        data = binary_at(Path(str(file.locate())))
        digest = hashlib.sha256(data).hexdigest()
        match = _LIBRARY.fullmatch(file.name)
        if not data or digest in seen or _EXTENSION.search(file.name):
            continue
        seen.add(digest)
        if match is not None:
            yield library(match, str(file), data, digest)
        elif file.parent.name == "bin":
            programs |= {(each.name, each.version): each for each in linked_into(file.name, data)}
    yield from programs.values()


def binary_at(path: Path) -> bytes:
    """Return the bytes of a program or a library, of Linux or macOS; none of any other file."""
    if not path.is_file() or not (path.parent.name == "bin" or ".so" in path.name or ".dylib" in path.name):
        return b""
    data = path.read_bytes()
    return data if data.startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe")) else b""


def library(match: re.Match[str], file: str, data: bytes, digest: str) -> Component:
    """Return a shared library; the version of its name is that of its interface."""
    component = Component(
        name=match["name"],
        version=match["version"] or match["soname"],
        type=ComponentType.FILE,
        bom_ref=file,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        properties=[Property(name="tintype:found", value=f"a file of the wheel: {file}")],
    )
    component.components.update(linked_into(match["name"], data))
    return component


def linked_into(binary: str, data: bytes) -> Iterator[Component]:
    """Yield the libraries that a binary says it was made of."""
    for name, pattern in _SAID.items():
        if name in _ONLY_IN and not binary.startswith(tuple(_ONLY_IN[name].split())):
            continue
        for version in sorted({found.decode() for found in re.findall(pattern, data)}):
            yield Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                purl=PackageURL("generic", None, name, version),
                properties=[Property(name="tintype:found", value=f"its version stands in {binary}")],
            )
    if binary == "libvips":
        for name, sign in _SILENT.items():
            if sign in data:
                told = f"its name stands in {binary}; the release of pyvips-binary decides its version"
                yield Component(
                    name=name,
                    type=ComponentType.LIBRARY,
                    properties=[Property(name="tintype:found", value=told)],
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
