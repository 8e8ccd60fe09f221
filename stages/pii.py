"""Replace personal data: e-mail, public IP, telephone, payment card, IBAN, national id, secret.

============  ======================================================================================================
type          found when
============  ======================================================================================================
email         name@domain.tld, also with a full-width @; names and domains may have accented, Greek, Cyrillic letters
ip            IPv4 or IPv6 that is globally reachable (IANA); never a version ("kernel 5.15.0.107"), a section
              number, a longer dotted run, or four octets below 32 (one address in 4,000)
phone         international, North American, with area code or trunk 0, or near a word such as phone
card          12 to 19 digits of an issuing network that pass Luhn
iban          the country's length and mod 97 (ISO 13616)
national_id   the scheme's form and check digits; a form that any digit run has, only near a word that names the scheme
secret        token prefixes, JSON web tokens, PEM private keys, `api_key = "..."` with a random-looking value
============  ======================================================================================================

Decisions: digits are ASCII digits; those of other scripts are not read (full-width ones are after NFKC). `[at]` for
@ is not undone. In a URL only e-mail, IP and secrets are looked for (its digit runs are record numbers), or nothing
at all with `urls: keep`, which leaves every link working. Values of reserved ranges (example.com, 555-01xx,
documentation addresses) are nobody's and stay. Names and street addresses take a model: see `pii_ner`.

Scrubbing twice changes nothing: the changed documents are scanned again until nothing is found (at most 8 times).
Cost: about 4.5 ns for each byte of web text, replacing included; documents that change are read twice. The first call
compiles for about 25 s (cached after that).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.stage import Batch, Params, StageError, Tools, doc_stage
from stages.kernels import pii_scan, words
from stages.kernels.pii_shapes import CARDS, KINDS, SCHEMES
from stages.pii_fakes import fakes

NATIONAL_IDS = tuple(scheme.name for scheme in SCHEMES if scheme.name not in CARDS)
COUNTS = tuple(f"{kind}s" for kind in KINDS)
SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("type", pa.string()), ("rule", pa.string())])
MAX_ROUNDS = 8

TypeName = Literal["email", "ip", "phone", "card", "iban", "national_id", "secret"]
ALL: tuple[TypeName, ...] = ("email", "ip", "phone", "card", "iban", "national_id", "secret")


class Pii(Params):
    types: tuple[TypeName, ...] = Field(ALL, description="types of personal data to replace", min_length=1)
    national_ids: tuple[str, ...] = Field(
        NATIONAL_IDS, description="schemes of national ids to look for, such as us_ssn, br_cpf, es_dni"
    )
    replace: Literal["placeholder", "fake"] = Field(
        "placeholder", description="placeholder: <EMAIL> and the like; fake: a value of a reserved range, the same for "
        "the same secret throughout the run",
    )  # fmt: skip
    urls: Literal["scrub", "keep"] = Field(
        "scrub", description="scrub: e-mail, IP and secrets inside URLs are replaced; keep: URLs stay as they are"
    )

    def masks(self) -> tuple[int, int]:
        """`(types, schemes)` as bits, the way the scan wants them; raises StageError for an unknown scheme."""
        if unknown := set(self.national_ids) - set(NATIONAL_IDS):
            raise StageError(f"pii.national_ids: expected names of {', '.join(NATIONAL_IDS)}, found {sorted(unknown)}")
        wanted = set(self.national_ids) if "national_id" in self.types else set()
        wanted |= set(CARDS) if "card" in self.types else set()
        return (
            sum(1 << k for k, kind in enumerate(KINDS) if kind in self.types),
            sum(1 << k for k, scheme in enumerate(SCHEMES) if scheme.name in wanted),
        )


@dataclass(frozen=True)
class Hits:
    """Spans of the documents of an array; those of document d are `offsets[d]:offsets[d + 1]`."""

    offsets: np.ndarray  # int32[docs + 1]
    starts: np.ndarray  # int32[spans], byte positions in the data buffer
    ends: np.ndarray  # int32[spans]
    rules: np.ndarray  # uint8[spans], numbers of pii_scan.RULES


def find(text: pa.Array, params: Pii) -> Hits:
    """One scan of a string array."""
    offsets, data = words.buffers(text)
    room = (int(offsets[-1]) - int(offsets[0])) // 4 + 1
    starts, ends, rules = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.uint8)
    hit_offsets = np.zeros(len(text) + 1, np.int32)
    kinds, schemes = params.masks()
    count = pii_scan.scan(offsets, data, kinds, schemes, params.urls == "keep", hit_offsets, starts, ends, rules)
    return Hits(hit_offsets, starts[:count].copy(), ends[:count].copy(), rules[:count].copy())


def replace(text: pa.Array, hits: Hits, params: Pii, seed: int) -> tuple[pa.Array, np.ndarray]:
    """The text with each span replaced, and the bytes (int64) that each span was replaced by."""
    offsets, data = words.buffers(text)
    if params.replace == "fake":
        spans = zip(hits.starts.tolist(), hits.ends.tolist(), strict=True)
        table = fakes(hits.rules, [data[start:end].tobytes() for start, end in spans], seed)
        texts = np.arange(len(table))
    else:
        table = [text.encode() for text in pii_scan.PLACEHOLDERS]
        texts = pii_scan.KIND_OF_RULE[hits.rules]
    lengths = np.array([len(item) for item in table], np.int64)
    widths = lengths[texts] if len(texts) else np.zeros(0, np.int64)
    size = int(offsets[-1]) - int(offsets[0]) + int(widths.sum()) - int((hits.ends - hits.starts).sum())
    if size >= 2**31:
        raise StageError(f"pii: expected a batch of less than 2 GiB after replacement, found {size} bytes")
    out, out_offsets = np.empty(size, np.uint8), np.zeros(len(text) + 1, np.int32)
    pii_scan.rewrite(offsets, data, hits.offsets, hits.starts, hits.ends, texts, np.append(0, np.cumsum(lengths)),
                     np.frombuffer(b"".join(table), np.uint8), out_offsets, out)  # fmt: skip
    return pa.StringArray.from_buffers(len(text), pa.py_buffer(out_offsets), pa.py_buffer(out)), widths


def _to_old(position: int, starts: list[int], ends: list[int], widths: list[int], at_end: bool) -> int:
    """Position in the old document of one in the new: inside a replacement, the start or the end of its span."""
    shift = 0
    for start, end, width in zip(starts, ends, widths, strict=True):
        new = start + shift
        if position < new or (position == new and at_end):
            break
        if position < new + width:
            return end if at_end else start
        shift += width - (end - start)
    return position - shift


def _merge(
    hits: Hits, widths: np.ndarray, base: np.ndarray, rows: np.ndarray, new_base: np.ndarray, more: Hits
) -> Hits:
    """Add spans that were found in the new text of the documents `rows`, mapped back to the old text."""
    documents = [
        list(zip(hits.starts[a:b].tolist(), hits.ends[a:b].tolist(), hits.rules[a:b].tolist(), strict=True))
        for a, b in zip(hits.offsets[:-1], hits.offsets[1:], strict=True)
    ]
    for k, row in enumerate(rows.tolist()):
        a, b = hits.offsets[row], hits.offsets[row + 1]
        old = (hits.starts[a:b] - base[row]).tolist(), (hits.ends[a:b] - base[row]).tolist(), widths[a:b].tolist()
        for h in range(more.offsets[k], more.offsets[k + 1]):
            start = _to_old(int(more.starts[h] - new_base[k]), *old, at_end=False) + int(base[row])
            end = _to_old(int(more.ends[h] - new_base[k]), *old, at_end=True) + int(base[row])
            documents[row] = [span for span in documents[row] if span[1] <= start or span[0] >= end]
            documents[row].append((start, end, int(more.rules[h])))
        documents[row].sort()
    flat = [span for spans in documents for span in spans]
    offsets = np.append(0, np.cumsum([len(spans) for spans in documents])).astype(np.int32)
    starts, ends, rules = (np.array([span[k] for span in flat]) for k in range(3))
    return Hits(offsets, starts.astype(np.int32), ends.astype(np.int32), rules.astype(np.uint8))


def scrub(text: pa.Array, params: Pii, seed: int) -> tuple[pa.Array, Hits]:
    """The scrubbed text (nulls read as empty) and its spans in the old one; the same array when nothing is found."""
    hits = find(text, params)
    if not len(hits.starts):
        return text, hits
    new, widths = replace(text, hits, params, seed)
    rows = np.flatnonzero(np.diff(hits.offsets))
    for _ in range(MAX_ROUNDS):
        part = new.take(pa.array(rows))
        more = find(part, params)
        if not len(more.starts):
            break
        base, new_base = words.buffers(text)[0], words.buffers(part)[0]
        hits = _merge(hits, widths, base, rows, new_base, more)
        new, widths = replace(text, hits, params, seed)
        rows = rows[np.flatnonzero(np.diff(more.offsets))]
    return new, hits


@doc_stage(
    "pii", Pii, reads=("text",), version=2,
    adds=[("text", pa.string()), *((name, pa.int32()) for name in COUNTS), ("spans", pa.list_(SPAN))],
)  # fmt: skip
def pii(batch: Batch, params: Pii, tools: Tools) -> dict[str, pa.Array]:
    """Replace personal data and secrets by placeholders such as `<EMAIL>`, or by consistent fakes.

    Adds the new `text`, a count for each type (`emails`, `ips`, `phones`, `cards`, `ibans`, `national_ids`, `secrets`)
    and `spans`: start and end in bytes of UTF-8 of the old text, type, and the rule that found it (`us_ssn`,
    `github_token` ...), never the secret. All are null where the text is.
    """
    text = batch["text"]
    new, hits = scrub(text, params, tools.seed)
    docs, valid = len(text), text.is_valid()
    owner = np.repeat(np.arange(docs), np.diff(hits.offsets))
    kinds = pii_scan.KIND_OF_RULE[hits.rules]
    counts = (
        np.bincount(owner * len(KINDS) + kinds, minlength=docs * len(KINDS)).reshape(docs, len(KINDS)).astype(np.int32)
    )
    base = words.buffers(text)[0][owner]
    parts = [pa.array(hits.starts - base), pa.array(hits.ends - base),
             pa.array(KINDS).take(pa.array(kinds)), pa.array(pii_scan.RULES).take(pa.array(hits.rules))]  # fmt: skip
    spans = pa.ListArray.from_arrays(
        pa.array(hits.offsets), pa.StructArray.from_arrays(parts, fields=list(SPAN)),
        mask=pa.array(~np.asarray(valid)) if text.null_count else None,
    )  # fmt: skip
    if text.null_count and new is not text:
        new = pc.if_else(valid, new, None)
    return {"text": new, **{name: words.column(counts[:, k].copy(), text) for k, name in enumerate(COUNTS)},
            "spans": spans}  # fmt: skip
