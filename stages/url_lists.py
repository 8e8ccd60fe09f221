"""Lists for `url_rules` from files: read once for a run, hashed, and memory-mapped by every worker.

A list file has one entry a line, plain or gzipped (by its name, `.gz`); blank lines and lines with "#" first say
nothing. None is bundled: what to block is a choice with consequences, so bring a list that you can answer for.

A manifest names the file; its SHA-256 becomes part of the parameters when the manifest is read, so that a changed list
runs again what depends on it, and a file that changes between the plan and the run is refused. `plan.json` holds the
hash and not the millions of entries. The path is taken from the working directory, and each machine that may run this
step has to see it. Cost: about 0.2 s for a million entries; 16 to 32 bytes of disk and of shared memory for each.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from pipeline.stage import Corpus, Params, StageError, Tools, artifact_stage
from stages.assets import sha256_of
from stages.kernels import url_match

MAX_BYTES = 1 << 30  # of an unpacked list file: 40 million entries
KINDS = {
    "domains": url_match.DOMAIN,
    "hosts": url_match.HOST,
    "paths": url_match.PATH,
    "words_strict": url_match.WORD,
    "words_hard": url_match.WORD,
    "words_soft": url_match.WORD,
    "allow_domains": url_match.DOMAIN,
}


class ListError(StageError):
    """A list cannot be used; the message says which entry, and what was expected."""


class ListFile(Params):
    path: str = Field(description="a file with one entry a line, plain or `.gz`")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file as it is; filled in when left out")

    @model_validator(mode="before")
    @classmethod
    def _fingerprint(cls, value: Any) -> Any:
        """Accept a bare path, and take the hash of the file where none is given."""
        value = {"path": value} if isinstance(value, str) else value
        if isinstance(value, dict) and isinstance(value.get("path"), str) and value.get("sha256") is None:
            try:
                value = value | {"sha256": sha256_of(Path(value["path"]))}
            except OSError as error:
                raise ValueError(f"a readable list file ({error.strerror})") from None
        return value


class UrlListsParams(Params):
    domains: tuple[ListFile, ...] = Field((), description="domains to drop, with all their subdomains")
    hosts: tuple[ListFile, ...] = Field((), description="hosts to drop, without their subdomains")
    paths: tuple[ListFile, ...] = Field((), description="URL prefixes to drop, `host/path`")
    words_strict: tuple[ListFile, ...] = Field((), description="letters and digits to drop anywhere in a URL")
    words_hard: tuple[ListFile, ...] = Field((), description="words to drop at one occurrence")
    words_soft: tuple[ListFile, ...] = Field((), description="words to drop at `soft_hits` different ones")
    allow_domains: tuple[ListFile, ...] = Field((), description="domains to keep, whatever the other lists say")


def hashed(data: bytes, kind: int, where: str) -> tuple[np.ndarray, int]:
    """`(uint64 keys, bits of word lengths)` of list lines. Raises ListError for a bad one."""
    lines = np.frombuffer(data, np.uint8)
    keys = np.empty(np.count_nonzero(lines == 10) + 1, np.uint64)
    count, lengths, bad = url_match.entries(lines, kind, keys)
    if bad:
        expected = ("a domain", "a host", "`host/path`", f"1 to {url_match.MAX_WORD} ASCII letters or digits")[kind]
        found = data.split(b"\n", bad)[bad - 1][:100].decode(errors="replace")
        raise ListError(f"{where}, line {bad}: expected {expected}, found {found.strip()!r}")
    return keys[:count], int(lengths)


def table_of(keys: np.ndarray) -> np.ndarray:
    """uint64 hash table of keys, the same whatever their order; one empty slot where there are none."""
    keys = np.sort(keys)
    keys = keys[np.diff(keys, prepend=np.uint64(0)) != 0]  # no key is 0; numpy's own `unique` takes ten times as long
    table = np.zeros(1 if len(keys) == 0 else 1 << (2 * len(keys) - 1).bit_length(), np.uint64)
    url_match.fill(keys, table)
    return table


def read_list(file: ListFile) -> bytes:
    """The unpacked bytes of a list file. Raises ListError when it changed since the plan, or is too large."""
    found = sha256_of(Path(file.path))
    if found != file.sha256:
        raise ListError(f"{file.path}: expected SHA-256 {file.sha256}, found {found}; the file changed: plan again")
    opener: Any = gzip.open if file.path.endswith(".gz") else open
    try:
        with opener(file.path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ListError(f"{file.path}: expected a gzip file, found {error}") from error
    if len(data) > MAX_BYTES:
        raise ListError(f"{file.path}: expected at most {MAX_BYTES} bytes unpacked, found more; split the list")
    return data


@artifact_stage("url_lists", UrlListsParams)
def url_lists(corpus: Corpus, params: UrlListsParams, out: Path, tools: Tools) -> dict[str, int]:
    """Hash tables of list files: domains, hosts, URL prefixes, words. Returns the number of entries of each list.

    Writes `<list>.npy` (uint64 table) for each list, and `index.json` with the lengths of strict words. Raises
    ListError.
    """
    counts: dict[str, int] = {}
    strict_lengths = 0
    for name, kind in KINDS.items():
        parts = [hashed(read_list(file), kind, file.path) for file in getattr(params, name)]
        table = table_of(np.concatenate([np.zeros(0, np.uint64), *(part for part, _ in parts)]))
        for _, lengths in parts if name == "words_strict" else ():
            strict_lengths |= lengths
        np.save(out / f"{name}.npy", table)
        counts[name] = int(np.count_nonzero(table))
    (out / "index.json").write_text(json.dumps({"strict_lengths": strict_lengths}) + "\n")
    return counts


def load_tables(folder: Path) -> tuple[tuple[np.ndarray, ...], int]:
    """`(tables in the order of KINDS, memory-mapped; bits of the lengths of strict words)` of an artifact."""
    tables = tuple(np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in KINDS)
    return tables, json.loads((folder / "index.json").read_text())["strict_lengths"]
