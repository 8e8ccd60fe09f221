"""Who finds the main text of a page: resiliparse, trafilatura, or both in a cascade.

`resiliparse` walks a C++ tree with a few rules. It is ten times as fast as `trafilatura`, which weighs several Python
extractors against each other, and on most pages as good. Where it fails, it fails completely: a container whose class
looks like boilerplate takes the whole article with it, and a few lines are left. That shows in the length of what is
left. So the cascade extracts with resiliparse, and asks trafilatura only about a page with little text, unless that
is nearly all the text there is.

Source of the rule: word F1 over 543 pages with gold text (docs/quality.md, with a held-out estimate). Decision trees
and gradient boosting over 25 features of page and result, cross-validated by site, chose no better than this threshold.

Cost on those pages: the fast step 3 ms, the slow step 70 ms for 11 % of the pages.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

NEARLY_ALL = 0.8  # share of a page's visible text that leaves nothing to look for

# Furniture that resiliparse's own rules let through. Some sixty such selectors were tried on the gold pages: most
# change next to nothing, and `sidebar`, `widget`, `meta`, `promo` or `author` also stand on containers of main text.
FURNITURE = [
    *("dialog", "footer"),
    *(
        f'[class*="{part}"]'
        for part in ("modal", "popup", "newsletter", "cookie", "copyright", "related-", "bio", "byline", "author-box",
                     "sr-only", "screen-reader")
    ),
]  # fmt: skip


@functools.lru_cache(maxsize=1)
def _trafilatura() -> Callable[..., str | None]:
    import trafilatura

    # It logs each page without main text; here that is a verdict in the ledger.
    for name in ("trafilatura", "htmldate", "justext", "courlan"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return trafilatura.extract


def by_resiliparse(tree: HTMLTree, main_content: bool, comments: bool, skip: list[str] | None = None) -> str:
    # Alternative texts of images cost 0.013 of F1 on the gold pages: they are captions of icons, mostly.
    return extract_plain_text(
        tree, main_content=main_content, comments=comments, alt_texts=False, skip_elements=skip or []
    )


def by_trafilatura(page: str, mode: str, comments: bool) -> str:
    text = _trafilatura()(
        page,
        favor_precision=mode == "precision",
        favor_recall=mode == "recall",
        fast=mode == "fast",
        include_comments=comments,
    )
    return text or ""


def by_cascade(page: str, tree: HTMLTree, mode: str, comments: bool, enough_chars: int) -> str:
    """Resiliparse's text where it has `enough_chars` characters or nearly all there are, else trafilatura's."""
    text = by_resiliparse(tree, True, comments, FURNITURE).strip()
    if len(text) >= enough_chars:
        return text
    if text and len(text) >= NEARLY_ALL * len(by_resiliparse(tree, False, comments)):
        return text
    return by_trafilatura(page, mode, comments) or text
