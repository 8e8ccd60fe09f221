"""What a page says about its use: robots directives, opt-outs from text mining, a Creative-Commons licence.

`noindex` is true where `<meta name="robots">` or `"googlebot"`, or the header `X-Robots-Tag`, says `noindex` or `none`.
`noai` is true where any crawler's meta tag or the header says `noai`, or `<meta name="tdm-reservation" content="1">`
(the W3C community's TDM Reservation Protocol) reserves text and data mining. `noimageai` is recorded apart: it speaks
of pictures. A header directive that stands right behind the name of another crawler ("otherbot: noindex") does not
count. Both are recorded for every page; a rule is published only for what `respect` names. The default respects
nothing: whether a corpus honours a signal is for its makers to decide and to say, and `noindex` is about search.

`licence` is the page's Creative-Commons licence as a lower-case SPDX-like id (`cc-by-4.0`, `cc-by-sa-3.0`, `cc0-1.0`,
`cc-pdm-1.0`; without version where the address has none; versions for single countries count as the plain ones), null
where there is none, and `licence_from` is the place, the first of these that has one, as C5 (the Common Crawl Creative
Commons Corpus) orders them:

1. `meta`: a meta tag with the licence's address (`name="license"`, `dcterms.license`, `og:license`, ...)
2. `json_ld`: a `"license"` in a JSON-LD script
3. `link`: `rel="license"` on a link tag or an anchor
4. `anchor`: any other link to a licence, which may speak of one picture: `licence_count`, the number of different
   licences that the page names, says how far to trust it

Trade-off: the bytes are searched and no tree is built, so text in comments, scripts and other encodings than ASCII
supersets is not seen. Cost: about 1,600 MB of HTML for each CPU-second (50,000 pages of 30 kB).
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import page_tags, words

ADDS = pa.schema([("noindex", pa.uint8()), ("noai", pa.uint8()), ("noimageai", pa.uint8()), ("licence", pa.string()),
                  ("licence_from", pa.string()), ("licence_count", pa.uint8())])  # fmt: skip
SIGNALS = ("noindex", "noai", "noimageai")
PLACES = ("meta", "json_ld", "link", "anchor")

_ATTRIBUTE = re.compile(rb"""(?<![-\w:.])([a-zA-Z_:][-\w:.]*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_REL_LICENCE = re.compile(rb"(?:^|\s)licen[sc]e(?:\s|$)", re.I)
_JSON_LICENCE = re.compile(rb'"licen[sc]e"\s*:\s*(?:\[\s*)?(\{[^{}]{0,1000}\}|"[^"]{0,1000}")', re.I)
_ADDRESS = re.compile(
    rb"creativecommons\.org(?:\\?/|%2f)(?:licenses(?:\\?/|%2f)(by(?:-nc)?(?:-nd|-sa)?|nd|nc|sa|nd-nc|nc-sa|by-nd-nc)"
    rb"|publicdomain(?:\\?/|%2f)(zero|mark|certification))(?![\w-])(?:(?:\\?/|%2f)(\d\.\d))?", re.I
)  # fmt: skip
_PUBLIC_DOMAIN = {b"zero": "cc0", b"mark": "cc-pdm", b"certification": "cc-pddc"}
MAX_TAG_BYTES = 1 << 16  # of a tag or a JSON-LD script: what stands behind is not read
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


class PageSignals(Params):
    respect: tuple[Literal["noindex", "noai"], ...] = Field((), description="signals to publish a rule for")


def rules(params: PageSignals) -> list[Rule]:
    """A rule for each signal to respect, named like it."""
    return [Rule(signal, "==", 0.0, signal) for signal in params.respect]


def attributes(tag: bytes) -> dict[bytes, bytes]:
    """Attributes of a tag by lower-case name; of two with one name the first, as in a browser."""
    found: dict[bytes, bytes] = {}
    for match in _ATTRIBUTE.finditer(tag):
        found.setdefault(match[1].lower(), match[2] or match[3] or match[4] or b"")
    return found


def licence_of(address: bytes) -> str | None:
    """`cc-by-sa-3.0` of an address of a Creative-Commons licence, None of others."""
    match = _ADDRESS.search(address)
    if not match:
        return None
    name = _PUBLIC_DOMAIN[match[2].lower()] if match[2] else "cc-" + match[1].decode().lower()
    return f"{name}-{match[3].decode()}" if match[3] else name


def directives(value: str, agents: tuple[str, ...] = ("", "googlebot", "robots", "*")) -> set[str]:
    """Lower-case directives of a robots header or meta value, without those for other crawlers than `agents`."""
    found = set()
    for part in value.lower().split(","):
        agent, colon, directive = part.strip().partition(":")
        if not colon or agent in _VALUED:
            found.add(agent)
        elif agent.strip() in agents:
            found.add(directive.strip())
    return found


def _robots(found: set[str]) -> set[str]:
    """Signals among directives."""
    signals = found & {"noai", "noimageai", "noindex"}
    return signals | {"noindex"} if "none" in found else signals


def _meta(tag: dict[bytes, bytes]) -> set[str]:
    """Signals of a meta tag."""
    name = tag.get(b"name", b"").strip().lower()
    value = tag.get(b"content", b"")
    if name == b"tdm-reservation":
        return {"noai"} if value.strip() == b"1" else set()
    if name == b"robots" or name.endswith(b"bot"):
        signals = _robots(directives(value.decode("latin-1")))
        return signals if name in (b"robots", b"googlebot") else signals - {"noindex"}
    return set()


def _licences(kind: int, tag: bytes) -> list[tuple[int, str]]:
    """`(number of the place, licence)` of what a tag names."""
    if kind == page_tags.JSON_LD:
        return [(1, licence) for match in _JSON_LICENCE.finditer(tag) if (licence := licence_of(match[1]))]
    found = attributes(tag)
    licence = licence_of(found.get(b"content" if kind == page_tags.META else b"href", b""))
    if licence is None:
        return []
    if kind == page_tags.META:
        return [(0, licence)]
    marked = _REL_LICENCE.search(found.get(b"rel", b""))
    if kind == page_tags.LINK and not marked:
        return []
    return [(2 if marked else 3, licence)]


def _tags(html: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(int64[4, tags]: row, kind, start, end; offsets; data)` of all pages."""
    offsets, data = words.buffers(html)
    room = 8 * len(html) + 64
    while True:
        found = np.zeros((4, room), np.int64)
        count = page_tags.scan(offsets, data, *found)
        if count <= room:
            return found[:, :count], offsets, data
        room = count


@doc_stage("page_signals", PageSignals, reads=("html", "robots_tag"), adds=ADDS, rules=rules)
def page_signals(batch: Batch, params: PageSignals, tools) -> dict[str, pa.Array]:
    """Robots directives, opt-outs from text mining, and the Creative-Commons licence of each page."""
    html = batch["html"]
    signals = np.zeros((len(SIGNALS), batch.num_rows), np.uint8)
    named: dict[int, list[tuple[int, str]]] = {}
    tags, _, data = _tags(html)
    for row, kind, start, end in tags.T.tolist():
        tag = data[start : min(end, start + MAX_TAG_BYTES)].tobytes()
        if kind == page_tags.META:
            for signal in _meta(attributes(tag)):
                signals[SIGNALS.index(signal), row] = 1
        if licences := _licences(kind, tag):
            named.setdefault(row, []).extend(licences)
    for row, value in enumerate(batch["robots_tag"].to_pylist()):
        for signal in _robots(directives(value)) if value else ():
            signals[SIGNALS.index(signal), row] = 1
    best = {row: min(found, key=lambda item: item[0]) for row, found in named.items()}
    unknown = np.asarray(html.is_null())
    counts = np.array([len({licence for _, licence in named.get(row, [])}) for row in range(batch.num_rows)], np.uint8)
    columns: dict[str, pa.Array] = {
        name: pa.array(signals[k], mask=unknown & (signals[k] == 0)) for k, name in enumerate(SIGNALS)
    }
    places = [PLACES[best[row][0]] if row in best else None for row in range(batch.num_rows)]
    return columns | {
        "licence": pa.array([best[row][1] if row in best else None for row in range(batch.num_rows)], pa.string()),
        "licence_from": pa.array(places, pa.string()),
        "licence_count": pa.array(counts, mask=unknown),
    }
