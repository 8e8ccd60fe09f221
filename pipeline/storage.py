"""Where bytes live: sources on any file system, and the two ways in which a run directory is written.

Sources are read through `pyarrow.fs` (local paths, `s3://`, `gs://`), and through fsspec for `hf://` and
`https://`. Credentials, region and endpoint come from where each library looks for them: `AWS_ACCESS_KEY_ID`,
`AWS_REGION`, `AWS_ENDPOINT_URL` (any S3-compatible store), `HF_TOKEN`, `HF_ENDPOINT`.

A run directory is a local folder; everything in it is written by `publish` (write under a unique name, fsync,
rename) or named by a file that was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import pyarrow.fs as pafs

from pipeline.errors import TamisError

FSSPEC_SCHEMES = {"hf", "http", "https"}
BUCKET_SCHEMES = {"s3", "gs", "gcs"}


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. `key` is its path below the fixed part of the pattern: stable when the folder moves."""

    uri: str
    key: str
    size: int
    version: str  # changes when the content may have: modification time, or the size alone where there is none


def open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path in it. Raises TamisError when the scheme or its library is not available."""
    scheme = urlparse(uri).scheme if "://" in uri else ""
    try:
        if scheme in FSSPEC_SCHEMES:
            import fsspec

            filesystem, path = fsspec.core.url_to_fs(uri)
            return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path
        if scheme in BUCKET_SCHEMES:  # the path stays apart: `?` is a glob here, not a query
            bucket, _, path = uri.split("://", 1)[1].partition("/")
            filesystem, root = pafs.FileSystem.from_uri(f"{scheme}://{bucket}")
            return filesystem, f"{root}/{path}".rstrip("/")
        if scheme:
            return pafs.FileSystem.from_uri(uri)
    except Exception as error:
        raise TamisError(f"{uri}: {_first_line(error)}") from None
    return pafs.LocalFileSystem(), os.path.abspath(uri)


def list_files(pattern: str) -> list[SourceFile]:
    """Files that match a path, a folder or a glob (`*`, `?`, `[..]`, `**`), sorted by key; empty when none does.

    Raises TamisError when the location cannot be read.
    """
    filesystem, path = open_filesystem(pattern)
    if pattern.startswith(("http://", "https://")):
        return [_web_file(filesystem, pattern)]
    parts = PurePosixPath(path).parts
    fixed = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), None)
    try:
        if fixed is None:
            infos = [filesystem.get_file_info(path)]
            if infos[0].type == pafs.FileType.Directory:
                return list_files(pattern.rstrip("/") + "/*")
            root = str(PurePosixPath(path).parent)
        else:
            root = str(PurePosixPath(*parts[:fixed])) if fixed else ""
            deep = len(parts) - fixed > 1
            infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=deep, allow_not_found=True))
            matches = re.compile(_glob_regex(path)).fullmatch
            infos = [info for info in infos if matches(info.path)]
    except Exception as error:  # each store has errors of its own, and each must be one line
        raise TamisError(f"{pattern}: {_first_line(error)}") from None
    prefix = pattern.split("://", 1)[0] + "://" if "://" in pattern else ""
    files = [
        SourceFile(
            uri=prefix + info.path,
            key=str(PurePosixPath(info.path).relative_to(root)) if root else info.path,
            size=info.size or 0,
            version=f"{info.size}-{_state(filesystem, info)}",
        )
        for info in infos
        if info.type == pafs.FileType.File
    ]
    return sorted(files, key=lambda file: file.key)


def _state(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> str:
    """What changes with the content: the modification time, or the hub's content id where there is no time."""
    if info.mtime_ns or not isinstance(filesystem, pafs.PyFileSystem):
        return str(info.mtime_ns or 0)
    details = filesystem.handler.fs.info(info.path)  # known from the listing
    return str(details.get("blob_id") or details.get("ETag") or 0)


def _web_file(filesystem: pafs.FileSystem, url: str) -> SourceFile:
    """One file on the web, without listing: a glob is not possible there."""
    try:
        info = filesystem.handler.fs.info(url)
    except Exception as error:
        raise TamisError(f"{url}: {_first_line(error)}") from None
    size = info.get("size") or 0
    return SourceFile(url, PurePosixPath(urlparse(url).path).name, size, f"{size}-{info.get('ETag', '')}")


def _glob_regex(pattern: str) -> str:
    """Regular expression of a glob in which `*` and `?` stay within a folder and `**` crosses folders."""
    tokens = re.findall(r"\*\*/?|\*|\?|\[[^]]*\]|[^*?\[]+|\[", pattern)
    special = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    out = []
    for token in tokens:
        if token.startswith("[") and token.endswith("]") and len(token) > 2:
            inner = token[1:-1].replace("\\", "\\\\")
            out.append("[^" + inner[1:] + "]" if inner[0] == "!" else f"[{inner}]")
        else:
            out.append(special.get(token) or re.escape(token))
    return "".join(out)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def publish(path: Path, data: bytes) -> None:
    """Write `data` so that `path` either holds all of it or what it held before, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk names no file, and the temporary name tells a person nothing
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_json(path: Path, data: Any) -> None:
    publish(path, (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def digest(data: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `data`."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
