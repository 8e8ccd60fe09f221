"""Main text of HTML pages: charset, boilerplate removal, clean UTF-8.

Three engines (stages/extract_engines.py; word F1 against gold text and speed of each in docs/quality.md):

===============  =====  ===============  ==============================================================
engine           F1     pages per CPU-s  what it is
===============  =====  ===============  ==============================================================
`cascade`        .87    95               resiliparse, and trafilatura where that left next to nothing
`resiliparse`    .82    300              a C++ tree and a few rules
`trafilatura`    .86    28               several Python extractors, weighed against each other
===============  =====  ===============  ==============================================================

The default is the cascade: more exact than either of its parts. A million pages take it about 3 CPU hours, of which
resiliparse alone needs one and trafilatura alone ten; a crawl in which the other two hours count takes `resiliparse`.

Hostile pages: deterministic caps stand before the engine, each a counted drop: bytes (`too_large`), start tags and the
work that the markup makes (`too_complex`, see stages/kernels/markup.py). Below them is a limit on CPU time
(`too_slow`), which depends on the machine and therefore stands far beyond what any page inside the caps should take;
what it can and cannot stop is in stages/extract_limit.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator
from resiliparse.parse.html import HTMLTree

from pipeline.stage import Batch, Out, Params, Tools, doc_stage
from stages.charset import decode
from stages.extract_engines import by_cascade, by_resiliparse, by_trafilatura
from stages.extract_limit import TooSlow, cpu_limit
from stages.kernels.markup import markup_extent

TITLE_CHARS = 1000
_HTML_TYPES = ("", "text/html", "application/xhtml+xml")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SPACES = re.compile(r"\s+")


class ExtractParams(Params):
    engine: Literal["cascade", "resiliparse", "trafilatura"] = Field("cascade", description="who finds the main text")
    main_content: bool = Field(
        True,
        description="engine resiliparse only: false keeps navigation, footers and all other visible text",
    )
    mode: Literal["default", "precision", "recall", "fast"] = Field(
        "default",
        description="trafilatura, also in the cascade: which errors to prefer; `fast` skips its fallback extractors",
    )
    enough_chars: int = Field(
        1000, ge=0, description="cascade: a resiliparse text of so many characters is taken as it is"
    )
    comments: bool = Field(False, description="keep the comment sections of readers")
    max_html_bytes: int = Field(10_000_000, ge=1, description="a larger page is dropped as `too_large`")
    max_elements: int = Field(
        200_000, ge=1, description="a page with more start tags is dropped as `too_complex` (trafilatura: 40 us each)"
    )
    max_markup_cost: int = Field(
        50_000_000, ge=1, description="sum of depths and squared attribute counts; beyond it, `too_complex` (about 2 s)"
    )
    max_seconds: float = Field(
        60.0, ge=0, description="user CPU time of one page, beyond which it is dropped as `too_slow`; 0: no limit"
    )

    @model_validator(mode="after")
    def _one_engine_keeps_all(self) -> ExtractParams:
        if not self.main_content and self.engine != "resiliparse":
            raise ValueError(f"main_content: false needs engine: resiliparse, found engine: {self.engine}")
        return self


def clean(text: str) -> str:
    """Line ends as `\\n`; C0 controls but tab and newline, DEL and lone surrogates removed; stripped.

    No-break spaces (`&nbsp;`, an instruction to the page's layout) become spaces, as language models split at these
    alone. Unicode is not normalised otherwise: what the page says stays what the page says.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _CONTROLS.search(text):
        text = _CONTROLS.sub("", text)
    return text.replace("\xa0", " ").strip()


def decode_utf8(data: bytes) -> str:
    """Text of a source that should hold UTF-8: encoded surrogates are kept for `clean`, other errors become U+FFFD."""
    for errors in ("strict", "surrogatepass"):
        try:
            return data.decode("utf-8", errors)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace")


def _main_text(page: str, tree: HTMLTree, params: ExtractParams) -> str:
    if params.engine == "resiliparse":
        return by_resiliparse(tree, params.main_content, params.comments)
    if params.engine == "trafilatura":
        return by_trafilatura(page, params.mode, params.comments)
    return by_cascade(page, tree, params.mode, params.comments, params.enough_chars)


def _page(html: bytes, charset: str | None, mime: str, params: ExtractParams) -> tuple[str, str | None, str | None]:
    """Text, title and drop reason of one page."""
    if mime not in _HTML_TYPES and mime != "text/plain":
        return "", None, "content_type"
    if len(html) > params.max_html_bytes:
        return "", None, "too_large"
    page = decode(html, charset)
    if mime == "text/plain":
        return clean(page), None, None
    elements, _, cost = markup_extent(html if b"\0" not in html else page.encode("utf-8", "replace"))
    if elements > params.max_elements or cost > params.max_markup_cost:
        return "", None, "too_complex"
    tree = HTMLTree.parse(page)
    title = clean(_SPACES.sub(" ", tree.title or ""))[:TITLE_CHARS]
    return clean(_main_text(page, tree, params)), title or None, None


def _rows(batch: Batch) -> Iterator[tuple[bytes | None, bytes | None, str | None, str]]:
    types = batch["content_type"].to_pylist()
    texts = batch["text"].cast(pa.binary())  # a source may hold invalid UTF-8: decoded in `decode_utf8`
    for html, text, charset, mime in zip(batch["html"], texts, batch["charset"].to_pylist(), types, strict=True):
        yield html.as_py(), text.as_py(), charset, (mime or "").partition(";")[0].strip().lower()


@doc_stage(
    "extract",
    ExtractParams,
    reads=("html", "text", "charset", "content_type"),
    adds=[("text", pa.string()), ("title", pa.string()), ("text_bytes", pa.int64())],
    drops=True,
)
def extract(batch: Batch, params: ExtractParams, tools: Tools) -> Out:
    """Main text of each page; rows that come with text (WET, JSONL, Parquet) are only cleaned.

    Adds `text` (string, valid UTF-8 without control characters), `title` (string, null where there is none, at
    most 1,000 characters) and `text_bytes` (int64, UTF-8 bytes of the text). Drops: `content_type` (by the header
    neither HTML nor plain text), `too_large`, `too_complex`, `too_slow`, `empty_text`. A page that no charset
    decodes is quarantined.
    """
    texts: list[str | None] = []
    titles: list[str | None] = []
    reasons: list[str | None] = []
    out = Out()
    for row, (html, text, charset, mime) in enumerate(_rows(batch)):
        title: str | None = None
        reason: str | None = None
        body = ""
        if html is not None:
            try:
                with cpu_limit(params.max_seconds):
                    body, title, reason = _page(html, charset, mime, params)
            except TooSlow:
                body, title, reason = "", None, "too_slow"
            except UnicodeError as error:
                out.quarantine[row] = f"{type(error).__name__}: {error}"
        elif text is not None:
            body = clean(decode_utf8(text))
        if not body and reason is None and row not in out.quarantine:
            reason = "empty_text"
        texts.append(body or None)
        titles.append(title)
        reasons.append(reason)
    array = pa.array(texts, pa.string())
    sizes: Any = pa.array([len(text.encode()) if text else 0 for text in texts], pa.int64())
    out.columns = {"text": array, "title": pa.array(titles, pa.string()), "text_bytes": sizes}
    out.reason = pa.array(reasons, pa.string())
    out.drop = pa.array([reason is not None for reason in reasons])
    return out
