"""The report: complete, escaped, offline, and right about the numbers it shows."""

from __future__ import annotations

import functools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import write_run

from pipeline.errors import TamisError
from pipeline.report import build, charts
from pipeline.report.build import counted, duration, fixed, number, percent, places, safe_link, shown, size
from pipeline.report.queries import Bound, Ledger, histogram

VOID = {"col", "meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), documents=3000)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("it's [odd] *"), documents=600, hostile=True, failed=True)


@functools.cache
def read(run_dir: Path) -> tuple[str, Page]:
    text = build(run_dir).read_text()
    return text, Page(text)


def test_every_section_is_there(run: Path) -> None:
    text, page = read(run)
    assert not page.open, "every element is closed"
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids)), "charts must not share ids"
    for section in (
        "flow",
        "reasons",
        "rules",
        "groups",
        "scores",
        "duplicates",
        "quarantine",
        "tokens",
        "models",
        "training",
        "probes",
        "stages",
    ):
        assert section in ids
        assert f'href="#{section}"' in text
    assert len(text) < 3_000_000
    summary = json.loads((run / "summary.json").read_text())
    for verdict in ("in", "kept", "dropped"):
        assert number(summary["documents"][verdict]) in page.words
    assert "left out here: 1" in page.words  # the half line of train.jsonl
    assert "lost over 80 %" in page.words
    assert re.search(r"\d rules? dropped no document", page.words)
    assert sum(tag == "svg" for tag, _ in page.tags) >= 12 + 1 + 6


@pytest.mark.parametrize("which", ["run", "hostile"])
def test_the_page_asks_nothing_of_the_network(which: str, request: pytest.FixtureRequest) -> None:
    text, page = read(request.getfixturevalue(which))
    names = {tag for tag, _ in page.tags}
    assert not names & {
        "script",
        "iframe",
        "link",
        "img",
        "object",
        "embed",
        "base",
        "form",
        "use",
        "image",
        "foreignobject",
    }
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        assert "src" not in attrs
        if "href" in attrs:
            assert tag == "a"
            assert re.match(r"#[a-z]+$|https?://|\.\./spikes/step-\d+\.json$", attrs["href"] or ""), attrs
    assert "@import" not in text
    assert not re.search(r"url\((?!#c\d+-)", text)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy or "")


def test_hostile_strings_are_shown_not_obeyed(hostile: Path) -> None:
    text, page = read(hostile)
    assert not page.open
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "javascript:" not in "".join(attrs.get("href") or "" for _, attrs in page.tags)
    assert "javascript:alert" in page.words
    assert "\u202e" not in text
    assert "1 failure" in page.words
    assert "no space left on device" in page.words
    assert page.words.index("1 failure") < page.words.index("Documents in")


def test_duplicates_are_shown_with_charts_and_alarms(run: Path, hostile: Path) -> None:
    text, _ = read(run)
    section = text[text.index('<section id="duplicates">') :]
    section = section[: section.index("</section>")]
    assert section.count("<svg") == 3
    assert "14 bands of 8 rows" in section
    assert "threshold 0.75" in section
    assert "alarm" in section
    assert "more than 50% are copies in 2 hosts" in section
    assert "not in this run" in section
    assert "1 more" in section
    evil, _ = read(hostile)
    section = evil[evil.index('<section id="duplicates">') :]
    section = section[: section.index("</section>")]
    assert section.count("&lt;script&gt;") > 10
    assert 'href="javascript' not in section


def test_a_run_that_stopped_early_has_a_report(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "ledger", tmp_path / "ledger")
    shutil.copy(run / "summary.json", tmp_path / "summary.json")
    _, page = read(tmp_path)
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert "flow" in ids
    assert not ids & {"tokens", "training", "probes", "quarantine"}


def test_a_run_that_failed_before_it_could_count(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "ledger", tmp_path / "ledger")
    summary = {"name": "x", "manifest": "m.yaml", "ok": False, "started": "2026-11-21T05:19:42+00:00", "seconds": 3.0}
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"failures": ["train: out of memory"]}))
    _, page = read(tmp_path)
    assert "out of memory" in page.words
    assert "2026-11-21 05:19 UTC" in page.words
    assert "3,000" in page.words


def test_an_all_null_ledger(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "summary.json", tmp_path / "summary.json")
    (tmp_path / "ledger").mkdir()
    pq.write_table(pq.read_table(run / "ledger").slice(0, 0), tmp_path / "ledger/part-00000.parquet")
    _, page = read(tmp_path)
    assert "No document was dropped." in page.words


def test_errors(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TamisError, match=r"expected summary\.json and ledger"):
        build(tmp_path)
    shutil.copytree(run / "ledger", tmp_path / "ledger")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(TamisError, match="expected JSON"):
        build(tmp_path)


def test_the_page_is_the_same_every_time(run: Path) -> None:
    assert re.sub(r"\bc\d+-", "", build(run).read_text()) == re.sub(r"\bc\d+-", "", build(run).read_text())


def test_queries_count_right(run: Path) -> None:
    rows = pq.read_table(run / "ledger").to_pylist()
    with Ledger(run) as ledger:
        reasons = {(row["stage"], row["reason"]): row for row in ledger.reasons()}
        languages, total = ledger.groups("language", 3)
        losses = {row["name"] for row in ledger.heavy_losses("language")}
        counts, first = ledger.quarantined(4)
        with pytest.raises(Exception, match="disabled"):
            ledger.rows("SELECT * FROM read_csv('/etc/passwd')")
    dropped = [row for row in rows if row["verdict"] == "dropped"]
    assert sum(row["documents"] for row in reasons.values()) == len(dropped)
    for (stage, reason), row in reasons.items():
        mine = sorted((r["doc_id"], r["url"]) for r in dropped if (r["stage"], r["reason"]) == (stage, reason))
        assert row["documents"] == len(mine)
        assert row["urls"] == [url for _, url in mine[:3]]
    assert total == len({row["language"] for row in rows})
    assert languages[0]["documents"] == sum(row["language"] == languages[0]["name"] for row in rows)
    assert all(g["documents"] == g["kept"] + g["dropped"] + g["quarantined"] for g in languages)
    for name in {row["language"] for row in rows}:
        mine = [row for row in rows if row["language"] == name]
        share = sum(row["verdict"] == "dropped" for row in mine) / len(mine)
        assert (name in losses) == (len(mine) >= 20 and share > 0.8)
    bad = [row for row in rows if row["verdict"] == "quarantined"]
    assert sum(row["documents"] for row in counts) == len(bad)
    assert [row["record_offset"] for row in first] == sorted(
        row["record_offset"] for row in bad if row["source"] == "crawl-a"
    )[:4]


VALUES = st.floats(0, 1e6) | st.floats(-1e6, 1e6) | st.integers(-40, 40).map(float)


@given(st.lists(VALUES, min_size=2, max_size=60), st.floats(-50, 50),
       st.sampled_from([">=", "<=", ">", "<"]))  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_histograms_count_every_document_on_its_side(values: list[float], bound: float, op: str) -> None:
    array = np.array(values)
    if array.min() == array.max():
        return
    found = histogram("a.b", array, (Bound("r", "a.b", op, bound, 0),))
    holds = {">=": array >= bound, "<=": array <= bound, ">": array > bound, "<": array < bound}[op]
    assert (found.passed.sum(), found.failed.sum()) == (holds.sum(), (~holds).sum())
    assert np.all(np.diff(found.edges) > 0)


def test_smoothing_keeps_a_line_a_line() -> None:
    line = [10 - 0.1 * n for n in range(50)]
    assert charts.smooth(line, 7) == pytest.approx(line)
    assert charts.smooth([3.0], 5) == [3.0]


def test_filters() -> None:
    assert [number(v) for v in (None, 0, 12345, 1_624_000, 3.8712, 0.00012, float("nan"))] == [
        "–", "0", "12,345", "1.62 M", "3.87", "0.00012", "–"]  # fmt: skip
    assert [size(v) for v in (None, 12, 1500, 2_230_000)] == ["–", "12 B", "1.5 kB", "2.23 MB"]
    assert [percent(v) for v in (0, 0.0002, 0.2094, 0.9999, 1)] == ["0.0 %", "< 0.1 %", "20.9 %", "> 99.9 %", "100.0 %"]
    assert [duration(v) for v in (None, 1.25, 59, 581.3, 7260)] == ["–", "1.2 s", "59 s", "9 min 41 s", "2 h 01 min"]
    assert [fixed(v, 2) for v in (None, 3.3, 1234.5)] == ["–", "3.30", "1,234.50"]
    assert (fixed(-0.5, 1, True), fixed(0.5, 1, True)) == ("−0.5", "+0.5")
    assert [places(e, 3) for e in (None, 0.0, 0.14, 0.0008, 1e-9)] == [3, 3, 3, 4, 6]
    assert (counted(1, "host"), counted(2300, "host")) == ("1 host", "2,300 hosts")
    assert shown("a\u202eb\nc\x00") == "a\\u202eb\\u000ac\\u0000"
    assert len(shown("x" * 1000)) < 120


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " https://a",
        "JAVASCRIPT:x",
        "data:text/html,x",
        "//a.b",
        "https://a b",
        "https://a\n",
        "http://é",
    ],
)
def test_only_plain_web_addresses_become_links(url: str) -> None:
    assert safe_link(url) == ""
    assert safe_link("https://a.example/?q=1&r='\"<>") != ""
