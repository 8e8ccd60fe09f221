"""Main text of HTML pages: charset, boilerplate removal, clean UTF-8.

Two engines. `resiliparse` (default) walks a C++ tree with a few rules; `trafilatura` weighs several Python extractors
against each X

Hostile pages: neither engine can be stopped from within the process, and a wall-clock limit would make the result
depend on the machine. So three deterministic caps stand before the engine, each a counted drop: bytes
(`too_large`), start tags and the work that the nesting makes (`too_complex`, see stages/kernels/markup.py).
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from pipeline.stage import Batch, Out, Params, Tools, doc_stage
from stages.charset import decode
from stages.kernels.markup import markup_extent

TITLE_CHARS = 1000
_HTML_TYPES = ("", "text/html", "application/xhtml+xml")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SPACES = re.compile(r"\s+")


class ExtractParams(Params):
    engine: Literal["resiliparse", "trafilatura"] = Field("resiliparse", description="who finds the main text")
    main_content: bool = Field(
        True,
        description="resiliparse: leave out navigation, footers and other boilerplate; false keeps all visible text",
    )
    mode: Literal["default", "precision", "recall", "fast"] = Field(
        "default", description="trafilatura: which errors to prefer; `fast` skips its fallback extractors"
    )
    comments: bool = Field(False, description="keep the comment sections of readers")
    max_html_bytes: int = Field(10_000_000, ge=1, description="a larger page is dropped as `too_large`")
    max_elements: int = Field(
        200_000, ge=1, description="a page with more start tags is dropped as `too_complex` (trafilatura: 40 us each)"
    )
    max_markup_cost: int = Field(
        50_000_000, ge=1, description="sum of depths and squared attribute counts; beyond it, `too_complex` (about 2 s)"
    )


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


@functools.lru_cache(maxsize=1)
def _trafilatura() -> Callable[..., str | None]:
    import trafilatura

    # It logs each page without main text; here that is a verdict in the ledger.
    for name in ("trafilatura", "htmldate", "justext", "courlan"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return trafilatura.extract


def _main_text(page: str, tree: HTMLTree, params: ExtractParams) -> str:
    if params.engine == "resiliparse":
        # Alternative texts of images cost 0.013 of F1 on the gold pages: they are captions of icons, mostly.
        return extract_plain_text(tree, main_content=params.main_content, comments=params.comments, alt_texts=False)
    text = _trafilatura()(
        page,
        favor_precision=params.mode == "precision",
        favor_recall=params.mode == "recall",
        fast=params.mode == "fast",
        include_comments=params.comments,
    )
    return text or ""


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
    neither HTML nor plain text), `too_large`, `too_complex`, `empty_text`. A page that no charset decodes is
    quarantined.
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
                body, title, reason = _page(html, charset, mime, params)
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
