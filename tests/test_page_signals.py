"""Robots directives, text-mining opt-outs and licences of pages: golden vectors, hostile pages, real pages."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import HOSTILE, check_columns
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch, stage_types
from stages.page_signals import PageSignals, directives, licence_of

SHARED = Path(__file__).resolve().parents[2] / "shared"
CC = "https://creativecommons.org/licenses/"


def signals(pages, headers=None, **params) -> list[dict]:
    pages = [page.encode() if isinstance(page, str) else page for page in pages]
    batch = Batch(
        {
            "html": pa.array(pages, pa.binary()),
            "robots_tag": pa.array(headers or [None] * len(pages), pa.string()),
        },
        len(pages),
    )
    kind = stage_types()["page_signals"]
    columns = kind.run(batch, PageSignals(**params), None)
    assert {name: array.type for name, array in columns.items()} == {f.name: f.type for f in kind.adds}
    check_columns(columns, len(pages))
    return pa.table(columns).to_pylist()


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ('<meta name="robots" content="noindex, nofollow">', {"noindex"}),
        ("<META CONTENT='NOAI,NoImageAI' NAME=Robots>", {"noai", "noimageai"}),
        ("<meta name=googlebot content=none />", {"noindex"}),
        ('<meta name="bingbot" content="noindex, noai">', {"noai"}),
        ('<meta name="tdm-reservation" content="1">', {"noai"}),
        ('<meta name="tdm-reservation" content="0">', set()),
        ('<meta name="robots" content="index, follow, max-snippet:-1">', set()),
        ('<meta name="description" content="robots: noindex">', set()),
        ("<!-- <meta name=robots content=noindex> -->", set()),
        ("<script>'<meta name=robots content=noindex>'</script>", set()),
        ("<style><meta name=robots content=noai></style><meta name=robots content=noindex>", {"noindex"}),
        ("<p title='<meta name=robots content=noindex>'>", {"noindex"}),  # no tree: a price of speed
        ("<metadata name=robots content=noindex>", set()),
        ("<meta name=robots content=noindex", {"noindex"}),
        ("<meta name=\"robots\" data-x=\"a > b\" content=\"noai\">", {"noai"}),
    ],
)  # fmt: skip
def test_robots_meta(page, expected):
    row = signals([page])[0]
    assert {name for name in ("noindex", "noai", "noimageai") if row[name]} == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("noindex", {"noindex"}),
        ("NOAI, noimageai", {"noai", "noimageai"}),
        ("googlebot: none", {"noindex"}),
        ("otherbot: noindex", set()),
        ("otherbot: noindex, noai", {"noai"}),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST, noindex", {"noindex"}),
        ("all", set()),
        ("", set()),
    ],
)
def test_robots_header(header, expected):
    row = signals([b"<p>"], [header])[0]
    assert {name for name in ("noindex", "noai", "noimageai") if row[name]} == expected
    assert isinstance(directives(header), set)


@pytest.mark.parametrize(
    ("address", "licence"),
    [
        (CC + "by-sa/3.0/us/deed.de", "cc-by-sa-3.0"),
        ("//CreativeCommons.org/Licenses/BY/4.0/", "cc-by-4.0"),
        (CC + "by-nc-nd/2.5/", "cc-by-nc-nd-2.5"),
        (CC + "by", "cc-by"),
        ("https:\\/\\/creativecommons.org\\/publicdomain\\/zero\\/1.0\\/", "cc0-1.0"),
        ("http://creativecommons.org/publicdomain/mark/1.0/", "cc-pdm-1.0"),
        ("https://web.org/?u=https%3A%2F%2Fcreativecommons.org%2Flicenses%2Fby%2F4.0", "cc-by-4.0"),
        (CC + "by-xx/4.0/", None),
        ("https://creativecommons.org/about", None),
        (CC, None),
    ],
)
def test_licence_addresses(address, licence):
    assert licence_of(address.encode()) == licence


@pytest.mark.parametrize(
    ("page", "licence", "place", "count"),
    [
        (f'<a rel="license" href="{CC}by-sa/3.0/">', "cc-by-sa-3.0", "link", 1),
        (f'<link href={CC}by/4.0/ rel="license stylesheet">', "cc-by-4.0", "link", 1),
        (f"<a class=x href='{CC}by/4.0/'>photo</a>", "cc-by-4.0", "anchor", 1),
        (f'<meta property="og:license" content="{CC}by-nc/4.0/">', "cc-by-nc-4.0", "meta", 1),
        (f'<script type="application/ld+json">{{"license" : ["{CC}by/4.0/"]}}</script>', "cc-by-4.0", "json_ld", 1),
        (f'<script type="application/ld+json">{{"license":{{"@type":"C","url":"{CC}by/3.0/"}}}}</script>', "cc-by-3.0",
         "json_ld", 1),
        (f'<a href="{CC}by/2.0/"></a><a rel=license href="{CC}by/4.0/"></a>', "cc-by-4.0", "link", 2),
        (f'<script>var x = "{CC}by/4.0/"</script><p>{CC}by/4.0/</p>', None, None, 0),
        (f'<link rel="stylesheet" href="{CC}by/4.0/">', None, None, 0),
        ('<a rel="license" href="https://opensource.org/license/mit">', None, None, 0),
        ("", None, None, 0),
    ],
)  # fmt: skip
def test_licences(page, licence, place, count):
    row = signals([page])[0]
    assert (row["licence"], row["licence_from"], row["licence_count"]) == (licence, place, count)


def test_a_document_without_a_page():
    rows = signals([None, None], [None, "noindex"])
    assert rows[0] == dict.fromkeys(rows[0])
    assert rows[1]["noindex"] == 1
    assert rows[1]["noai"] is None


def test_nothing_is_respected_unless_asked():
    kind = stage_types()["page_signals"]
    assert kind.rules(PageSignals()) == []
    (rule,) = kind.rules(PageSignals(respect=["noai"]))
    assert (rule.name, rule.holds(pa.array([0, 1, None], pa.uint8())).tolist()) == ("noai", [True, False, True])


def test_hostile_pages():
    pages = [text.encode() for text in HOSTILE.values()]
    pages += [
        b"<meta name=robots content=noindex>" * 300_000,
        b'<meta "' * 1_000_000,
        b'<a href="' * 1_000_000,
        b"<!--" * 1_000_000,
        b"<script>" * 1_000_000,
        b'<script type="application/ld+json">' + b'"license":{' * 100_000,
        b"<meta name=robots content='" + b"=" * 5_000_000 + b"'>",
        b"<meta robots " + b"a" * 3_000_000,
        b"\xff\xfe<\x00m\x00e\x00t\x00a\x00",
        b"<", b"<a", b"<meta", b"<!-", b"<!--", b"<script",
        b"<" * 5_000_000,
    ]  # fmt: skip
    rows = signals(pages)
    assert rows[len(HOSTILE)]["noindex"] == 1
    assert [signals([page])[0] for page in pages[: len(HOSTILE)]] == rows[: len(HOSTILE)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from([
    "<meta ", "name=", "robots ", "'robots' ", '"', "'", "content=", "noindex", ">", "<!--", "-->", "<script>",
    "</script>", "<a ", "href=", CC + "by/4.0/", " rel=license ", "x", " ", "<",
]), max_size=25).map("".join), max_size=4))  # fmt: skip
def test_a_page_alone_gives_what_it_gives_in_a_batch(pages):
    assert signals(pages) == [signals([page])[0] for page in pages]


class Tags(HTMLParser):
    """What the standard library's parser sees of robots meta tags and licence links."""

    def __init__(self):
        super().__init__()
        self.noindex, self.licences = False, set()

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        if tag == "meta" and found.get("name", "").lower() in ("robots", "googlebot"):
            self.noindex |= bool({"noindex", "none"} & directives(found.get("content", "")))
        if tag == "a" and (licence := licence_of(found.get("href", "").encode())):
            self.licences.add(licence)


def test_real_pages_as_the_standard_parser_sees_them():
    path = SHARED / "data" / "extraction" / "extraction_gold.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    pages = pq.read_table(path, columns=["html"])["html"].to_pylist()
    chosen = [page for page in pages if b"creativecommons.org" in page or b"noindex" in page][:40]
    for page, row in zip(chosen, signals(chosen), strict=True):
        seen = Tags()
        seen.feed(page.decode("utf-8", "replace"))
        assert row["noindex"] == seen.noindex
        assert row["licence"] is not None or not seen.licences
        assert row["licence_count"] >= len(seen.licences)
