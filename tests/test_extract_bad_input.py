"""Pages that are no pages: each bad input ends in a verdict, and what can be read is read."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hostile import HOSTILE, big, check_columns

from pipeline.stage import Batch
from stages.charset import decode
from stages.extract import ExtractParams, extract

SHARED = Path(__file__).resolve().parents[2] / "shared"
ENGINES = ("cascade", "resiliparse", "trafilatura")


def run(pages, texts=None, charset=None, **params):
    n = len(pages)
    columns = {
        "html": pa.array(pages, pa.binary()),
        "text": pa.array(texts or [None] * n, pa.string()),
        "charset": pa.array([charset] * n, pa.string()),
        "content_type": pa.nulls(n, pa.string()),
    }
    out = extract(Batch(columns, n), ExtractParams(**params), None)
    check_columns(out.columns, n)
    for row in range(n):
        text, size = out.columns["text"][row].as_py(), out.columns["text_bytes"][row].as_py()
        assert size == len((text or "").encode())
        assert text or out.drop[row].as_py() or row in out.quarantine
    return out


@pytest.mark.parametrize("engine", ENGINES)
def test_hostile_texts_in_a_page(engine):
    pages = [f"<html><body><main><p>{text}</p></main></body></html>".encode() for text in HOSTILE.values()]
    out = run([*pages, None], engine=engine)
    assert not out.quarantine
    reasons = dict(zip([*HOSTILE, None], out.reason.to_pylist(), strict=True))
    assert {reasons["empty"], reasons["space"], reasons["newlines"], reasons[None]} == {"empty_text"}
    for name in ("one_line", "same_line", "right_to_left", "korean_thai", "combining"):
        assert reasons[name] is None, name


def test_hostile_texts_as_texts():
    out = run([None] * (len(HOSTILE) + 1), [*HOSTILE.values(), None])
    kept = {name: text for name, text in zip([*HOSTILE, None], out.columns["text"].to_pylist(), strict=True) if text}
    assert set(HOSTILE) - set(kept) == {"empty", "space", "newlines"}
    assert kept["nul"] == "beforeafter and more words"
    assert kept["emoji"] == HOSTILE["emoji"].strip()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b"", None),
        (b"   \n\t ", None),
        (b"\xef\xbb\xbf", None),
        (b"<div><br></div><p></p><table></table>" * 50, None),  # tags alone
        (b"<html><head><title>Only a title</title></head><body></body></html>", None),
        (b"<!-- nothing but a comment", None),
        (b"<script>document.write('hello')</script>", None),
        (b"<p>Cut off in the middle of a tag <a hre", "Cut off in the middle of a tag"),
        (b"<p>A stray end tag</b></i></div></p>", "A stray end tag"),
        ("<p dir=rtl>שלום עולם, זה טקסט</p>".encode(), "שלום עולם, זה טקסט"),
        ("<p>日本語のページ</p>".encode(), "日本語のページ"),
        (b"<p>one\0two</p>", "onetwo"),
        (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body><p>X H T M L</p></body></html>",
         "X H T M L"),
    ],
)  # fmt: skip
def test_odd_pages(engine, page, expected):
    out = run([page], charset="utf-8", engine=engine)
    text = out.columns["text"][0].as_py()
    assert not out.quarantine
    if expected is None or (engine == "trafilatura" and text is None):  # it takes no page of a few words
        assert out.reason.to_pylist() == ["empty_text"]
        assert text is None
    else:
        assert text.replace("\ufffd", "") == expected


def test_a_page_without_any_tag_is_text():
    assert run([b"Plain words and nothing else.\n"]).columns["text"].to_pylist() == ["Plain words and nothing else."]


@pytest.mark.parametrize("charset", [None, "utf-8", "iso-8859-1"])
def test_invalid_utf8_declared_or_not(charset):
    """A few broken bytes cost those bytes; a page of them is quarantined by name unless a label decodes it."""
    words = "Füße und Brötchen auf der Straße " * 200
    broken = b"<p>" + words.encode() + b"\xff\xfe\xc3 Ende</p>"
    text = run([broken], charset=charset).columns["text"][0].as_py()
    assert text.startswith("Füße und Brötchen") == (charset != "iso-8859-1")
    assert text.endswith("Ende")
    noise = b"<p>" + bytes(range(128, 256)) * 40 + b"\x81\x8d\x8f" * 200
    assert list(run([noise], charset=charset).quarantine) == [0]


def test_broken_utf8_without_a_label_stays_utf8_and_windows_1252_does_not():
    words = "Füße und Brötchen auf der Straße " * 200
    assert decode(words.encode() + b"\xff", None).startswith(words)
    quotes = "It’s a plain English page with a quote or two and nothing else beyond ASCII in it. " * 20
    assert decode(quotes.encode("cp1252"), None) == quotes


def test_pages_of_100_mb():
    """Refused by the default cap, read when the cap allows it; a text has no cap."""
    page = b"<html><body><p>" + big().encode() + b"</p></body></html>"
    assert run([page]).reason.to_pylist() == ["too_large"]
    out = run([page], max_html_bytes=200_000_000)
    assert out.columns["text_bytes"][0].as_py() > 90_000_000


def test_a_text_of_100_mb():
    assert run([None], [big()]).columns["text_bytes"][0].as_py() > 99_000_000


def test_deep_nesting_is_refused_and_moderate_nesting_is_read():
    deep, moderate = (b"<div>" * n + b"<p>Some words down here.</p>" + b"</div>" * n for n in (20_000, 400))
    for engine in ("cascade", "resiliparse"):
        out = run([deep, moderate], engine=engine)
        assert out.reason.to_pylist() == ["too_complex", None]
        assert out.columns["text"][1].as_py() == "Some words down here."


def test_result_of_a_page_does_not_depend_on_its_batch():
    pages = [f"<p>{text}</p>".encode() for text in HOSTILE.values()]
    together = run(pages).columns["text"].to_pylist()
    assert together == [run([page]).columns["text"][0].as_py() for page in pages]


def test_charsets_of_a_real_crawl():
    """Pages without a charset in the header, UTF-8 and EUC-KR by their `<meta>`, decode without a replacement."""
    archive = SHARED / "data/crawl/CRAWL-S-00000.warc.gz"
    if not archive.exists():
        pytest.skip(f"{archive} is absent")
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    bodies = []
    with archive.open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, auto_decode="transfer"):
            if "html" not in (record.http_content_type or "") or record.http_headers.status_code != 200:
                continue
            body = record.reader.read()
            if record.http_headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if record.http_charset is None:
                bodies.append(body)
            if len(bodies) == 700:
                break
    korean = [body for body in bodies if b"euc-kr" in body[:1024].lower()]
    assert korean
    for body in korean:
        letters = sum("\uac00" <= c <= "\ud7a3" for c in decode(body, None))
        assert letters > 100
    assert sum("\ufffd" in decode(body, None) for body in bodies) <= 3
    out = run(korean)
    assert pc.sum(out.columns["text_bytes"]).as_py() > 0
