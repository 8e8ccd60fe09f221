"""Who finds the main text: the cascade's choice, real pages with gold text, the limit on CPU time."""

import hashlib
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.stage import Batch
from stages import extract_engines
from stages.extract import ExtractParams, extract
from stages.extract_limit import TooSlow, cpu_limit

SHARED = Path(__file__).resolve().parents[2] / "shared"
SENTENCE = "<p>The cascade asks the slow engine only where the fast one left next to nothing of the page.</p>"


def run(*pages, **params):
    null = pa.nulls(len(pages), pa.string())
    columns = {"html": pa.array(pages, pa.binary()), "text": null, "charset": null, "content_type": null}
    return extract(Batch(columns, len(pages)), ExtractParams(**params), None)


@pytest.fixture
def slow(monkeypatch):
    """Pages that trafilatura was asked about; it answers `slow`."""
    asked = []

    def answer(page, mode, comments):
        asked.append((page, mode, comments))
        return "slow"

    monkeypatch.setattr(extract_engines, "by_trafilatura", answer)
    return asked


def test_a_long_fast_text_is_taken(slow):
    page = f"<body><nav>{'<a href=/>Some link</a> ' * 400}</nav><main>{SENTENCE * 20}</main></body>".encode()
    text = run(page).columns["text"][0].as_py()
    assert text.count("cascade") == 20
    assert not slow


def test_a_short_text_that_is_nearly_all_there_is_is_taken(slow):
    assert "cascade" in run(f"<body><main>{SENTENCE}</main></body>".encode()).columns["text"][0].as_py()
    assert not slow


def test_a_short_text_of_a_long_page_goes_to_the_slow_engine(slow):
    page = f"<body><main><p>Hello.</p></main><div class='sidebar'>{SENTENCE * 20}</div></body>"
    assert run(page.encode(), mode="recall", comments=True).columns["text"].to_pylist() == ["slow"]
    assert slow == [(page, "recall", True)]


def test_a_page_without_visible_text_goes_to_the_slow_engine(slow):
    run(b"<body><script type='application/ld+json'>{}</script></body>")
    assert len(slow) == 1


def test_the_fast_text_stays_where_the_slow_engine_finds_nothing(monkeypatch):
    monkeypatch.setattr(extract_engines, "by_trafilatura", lambda page, mode, comments: "")
    page = f"<body><main><p>Hello.</p></main><div class='sidebar'>{SENTENCE * 20}</div></body>".encode()
    assert run(page).columns["text"].to_pylist() == ["Hello."]


def test_enough_chars_sets_the_choice(slow):
    page = f"<body><main>{SENTENCE}</main><footer>{SENTENCE * 20}</footer></body>".encode()
    assert "cascade" in run(page, enough_chars=50).columns["text"][0].as_py()
    assert run(page, enough_chars=5000).columns["text"].to_pylist() == ["slow"]


@pytest.mark.parametrize("furniture", ["class='cookie-banner'", "class='newsletter'", "class='author-box x'"])
def test_furniture_goes(furniture):
    page = f"<body><main>{SENTENCE * 20}<div {furniture}><p>Leave me out of it, please.</p></div></main></body>"
    assert "Leave me out" not in run(page.encode()).columns["text"][0].as_py()


def test_all_visible_text_needs_the_engine_that_gives_it():
    with pytest.raises(ValidationError, match="engine: resiliparse"):
        ExtractParams(main_content=False)


def bag(text):
    return Counter(re.findall(r"\w+", (text or "").lower()))


@pytest.mark.parametrize(("engine", "least"), [("cascade", 0.84), ("resiliparse", 0.79)])
def test_gold_pages(engine, least):
    """On a fixed sample of 120 pages each engine stays near its F1 in docs/quality.md."""
    path = SHARED / "data/extraction/extraction_gold.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    pages = pq.read_table(path, columns=["id", "html", "gold_text"]).to_pylist()
    pages = sorted(pages, key=lambda page: hashlib.sha256(page["id"].encode()).digest())[:120]
    out = run(*[page["html"] for page in pages], engine=engine)
    scores = []
    for text, page in zip(out.columns["text"].to_pylist(), pages, strict=True):
        a, b = bag(text), bag(page["gold_text"])
        scores.append(2 * sum((a & b).values()) / max(1, sum(a.values()) + sum(b.values())))
    assert sum(scores) / len(scores) > least
    assert not out.quarantine


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_limit_ends_the_block_and_leaves_no_trace():
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(TooSlow), cpu_limit(0.05):
        spin(5)
    with cpu_limit(5):
        spin(0.01)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_cpu_limit_comes_again_when_it_is_swallowed(monkeypatch):
    monkeypatch.setattr("stages.extract_limit._AGAIN", 0.05)

    def careless():
        try:
            spin(5)
        except:  # noqa: E722 - what it is that comes again
            spin(5)

    with pytest.raises(TooSlow), cpu_limit(0.05):
        careless()


def test_no_limit_off_the_main_thread_or_where_none_is_asked_for():
    done = []

    def work():
        with cpu_limit(0.01):
            spin(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with cpu_limit(0):
        spin(0.02)
    assert done == [True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where a callback swallows the first
def test_a_page_beyond_the_limit_is_dropped_and_the_next_is_not():
    bomb = b"<table><tr><td>x</table>" * 20_000  # inside every cap, 7 seconds in trafilatura
    good = SENTENCE.encode() * 5
    out = run(bomb, good, engine="trafilatura", max_seconds=0.2)
    assert out.reason.to_pylist() == ["too_slow", None]
    assert out.columns["text_bytes"][0].as_py() == 0
    assert "cascade" in out.columns["text"][1].as_py()
