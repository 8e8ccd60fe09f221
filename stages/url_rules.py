"""Drops documents by URL with lists of your own: domains, hosts, URL prefixes, words.

Lists stand in the manifest or, when they are long, in files that a `url_lists` node reads; both may be given, and none
is bundled. A URL that some list names is dropped with the reason `domain`, `host`, `path` or `word`, and `matched`
says by what. Domains in `allow_domains` win over all other lists.

=================  ==============================================================================================
list               drops
=================  ==============================================================================================
`domains`          `example.com`: the domain and all its subdomains (`*.` or `.` in front change nothing)
`hosts`            `www.example.com`: this host alone
`paths`            `example.com/forum`: URLs that start so, up to the end, "/", "?", "#" or "&"; scheme and "www."
                   do not count, letter case counts after the host
`words_strict`     letters and digits of a URL, all else taken out, that contain the word, in any case
`words_hard`       a URL with the word, which is a run of letters and digits, in any case
`words_soft`       a URL with `soft_hits` different ones of these words
=================  ==============================================================================================

Words follow RefinedWeb (Penedo et al. 2023, section G.1) as datatrove's `URLFilter` reads it; that filter forgets to
lower the case of a URL for hard and soft words. DCLM takes out only "-" and "." for strict words. International
domains are compared as the crawl writes them, which is mostly `xn--`. A document without a URL is kept.

Cost: 0.4 us for a URL against 4 million domains (2.4 million for each CPU-second), 1.2 us with words of all kinds.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.stage import Batch, Out, Params, Tools, doc_stage
from stages.kernels import url_match, words
from stages.url_lists import KINDS, hashed, load_tables, table_of

ADDS = pa.schema([("matched", pa.string())])
REASONS = (None, "domain", "host", "path", "word", "word", "word")


class UrlRules(Params):
    lists: str | None = Field(None, description="a `url_lists` node with lists from files")
    domains: tuple[str, ...] = Field((), description="domains to drop, with all their subdomains")
    hosts: tuple[str, ...] = Field((), description="hosts to drop, without their subdomains")
    paths: tuple[str, ...] = Field((), description="URL prefixes to drop, `host/path`")
    words_strict: tuple[str, ...] = Field((), description="letters and digits to drop anywhere in a URL")
    words_hard: tuple[str, ...] = Field((), description="words to drop at one occurrence")
    words_soft: tuple[str, ...] = Field((), description="words to drop at `soft_hits` different ones")
    allow_domains: tuple[str, ...] = Field((), description="domains to keep, whatever the other lists say")
    soft_hits: int = Field(2, ge=1, le=64, description="different soft words that drop a URL")


@lru_cache(maxsize=8)
def _inline(params: UrlRules) -> tuple[tuple[np.ndarray, ...], int]:
    tables, strict = [], 0
    for name, kind in KINDS.items():
        keys, lengths = hashed("\n".join(getattr(params, name)).encode(), kind, f"url_rules.{name}")
        strict |= lengths if name == "words_strict" else 0
        table = table_of(keys)
        table.flags.writeable = False  # as those of files are, so that one compiled function takes both
        tables.append(table)
    return tuple(tables), strict


@lru_cache(maxsize=8)
def _files(folder: Path) -> tuple[tuple[np.ndarray, ...], int]:
    return load_tables(folder)


@doc_stage("url_rules", UrlRules, reads=("url", "host"), adds=ADDS, drops=True,
           artifacts=lambda params: (params.lists,) if params.lists else ())  # fmt: skip
def url_rules(batch: Batch, params: UrlRules, tools: Tools) -> Out:
    """Block and allow lists over the URL: domains, hosts, prefixes, strict, hard and soft words."""
    tables, lengths = _inline(params)
    more, more_lengths = _files(tools.artifact(params.lists)) if params.lists else _inline(UrlRules())
    urls, hosts = batch["url"], batch["host"]
    url_offsets, url_data = words.buffers(urls)
    host_offsets, host_data = words.buffers(hosts)
    reasons, starts, ends = np.zeros((3, batch.num_rows), np.int32)
    url_match.search(url_offsets, url_data, host_offsets, host_data, tables, more,
                     np.uint64(lengths | more_lengths), params.soft_hits, reasons, starts, ends)  # fmt: skip
    matched: list[str | None] = [None] * batch.num_rows
    for row in np.flatnonzero(reasons):
        offsets, data = (host_offsets, host_data) if reasons[row] <= url_match.BY_HOST else (url_offsets, url_data)
        begin = int(offsets[row])
        matched[row] = bytes(data[begin + starts[row] : begin + ends[row]]).decode(errors="replace")
    return Out(
        columns={"matched": pa.array(matched, pa.string())},
        drop=reasons != url_match.NONE,
        reason=pa.array(REASONS, pa.string()).take(pa.array(reasons)),
    )
