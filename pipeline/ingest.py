"""Reading slices: from a source format's record batches to rows with an identity.

`doc_id` is XXH3-128 of (source name, file key, record offset): it does not depend on how the input was cut,
ordered or mounted. Cost: one hash of about 100 bytes for each record.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tldextract
import xxhash

from pipeline.errors import ConservationError
from pipeline.plan import Plan, Slice
from pipeline.stage import INGEST_SCHEMA, format_types
from pipeline.storage import open_filesystem

STORED = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("record_offset", pa.int64()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("domain", pa.string()),
        ("content_type", pa.string()),
        ("http_status", pa.int16()),
        ("charset", pa.string()),
        ("robots_tag", pa.string()),
        ("kind", pa.string()),
        ("licence", pa.string()),
        ("date", pa.timestamp("ms")),
        ("text", pa.string()),
    ]
)


def doc_ids(source: str, file: str, offsets: list[int]) -> pa.StringArray:
    """32 hex digits for each record."""
    prefix = f"{source}\0{file}\0"
    digits = "".join([xxhash.xxh3_128_hexdigest(f"{prefix}{offset}".encode()) for offset in offsets])
    ends = np.arange(0, 32 * len(offsets) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(offsets), pa.py_buffer(ends), pa.py_buffer(digits.encode()))


def host_of(url: str | None) -> str | None:
    """Lower-case host of a URL without user and port, or None."""
    if not url:
        return None
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


@functools.cache
def _suffixes() -> tldextract.TLDExtract:
    """The public suffix list of the installed package, private suffixes included; never the network."""
    return tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)


@functools.lru_cache(maxsize=1 << 16)
def domain_of(host: str | None) -> str | None:
    """Registered domain: `www.bbc.co.uk` -> `bbc.co.uk`, `a.github.io` -> itself; the host where there is none."""
    if not host:
        return None
    return _suffixes()(host).top_domain_under_public_suffix or host


def _places(urls: pa.Array) -> dict[str, pa.Array]:
    """Host and registered domain of each URL."""
    if urls.null_count == len(urls):
        return dict.fromkeys(("host", "domain"), pa.nulls(len(urls), pa.string()))
    hosts = [host_of(url) for url in urls.to_pylist()]
    domains = [domain_of(host) for host in hosts]
    return {"host": pa.array(hosts, pa.string()), "domain": pa.array(domains, pa.string())}


def read_slice(plan: Plan, piece: Slice) -> Iterator[pa.RecordBatch]:
    """Batches of INGEST_SCHEMA with `doc_id`, `source`, `file`, `host` and `domain` in front.

    `kind` and `licence` are the source's where the record states none.
    """
    source = plan.sources[piece.source]
    kind = format_types()[source["format"]]
    filesystem, path = open_filesystem(piece.uri)
    params = kind.params.model_validate(source["params"])
    last = -1
    for batch in kind.read(filesystem, path, piece.start, piece.end, params):
        if not batch.schema.equals(INGEST_SCHEMA):
            raise ConservationError(f"format {kind.name}: expected columns {INGEST_SCHEMA}, found {batch.schema}")
        offsets = batch["record_offset"].to_pylist()
        if offsets:
            if offsets[0] <= last or any(a >= b for a, b in itertools.pairwise(offsets)):
                raise ConservationError(f"{piece.uri}: expected record offsets that rise, found {offsets[:5]}...")
            last = offsets[-1]
        n = batch.num_rows
        identity = {
            "doc_id": doc_ids(piece.source, piece.file, offsets),
            "source": pa.repeat(piece.source, n),
            "file": pa.repeat(piece.file, n),
            **_places(batch["url"]),
        }
        columns = {**identity, **{name: batch[name] for name in INGEST_SCHEMA.names}}
        for name in ("kind", "licence"):
            if source[name] is not None:
                columns[name] = pc.fill_null(columns[name], source[name])
        yield pa.RecordBatch.from_pydict(columns)
