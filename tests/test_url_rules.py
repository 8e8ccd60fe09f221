"""URL lists: golden vectors, equality with a slow version, lists from files, bad entries."""

from __future__ import annotations

import gzip
import re
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from hostile import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch, stage_types
from stages.url_lists import ListError, UrlListsParams
from stages.url_rules import UrlRules


class Folder:
    """The part of the engine's tools that a stage with an artifact asks for."""

    def __init__(self, path):
        self.path = path

    def artifact(self, node):
        assert node == "lists"
        return self.path


def search(urls, tools=None, **params):
    """`(reason or None, matched)` for each URL."""
    hosts = [url and (urlsplit(url).hostname if "[" not in url else None) for url in urls]
    batch = Batch({"url": pa.array(urls, pa.string()), "host": pa.array(hosts, pa.string())}, len(urls))
    out = stage_types()["url_rules"].run(batch, UrlRules(**params), tools)
    reasons = out.reason.to_pylist()
    assert [reason is not None for reason in reasons] == out.drop.tolist()
    assert len(out.columns["matched"]) == len(urls)
    return list(zip(reasons, out.columns["matched"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("url", "params", "expected"),
    [
        ("https://a.bad.org/x", {"domains": ["bad.org"]}, ("domain", "bad.org")),
        ("https://bad.org./x", {"domains": ["*.BAD.org"]}, ("domain", "bad.org.")),
        ("https://verybad.org/", {"domains": ["bad.org"]}, (None, None)),
        ("https://a.bad.org/", {"domains": ["b.a.bad.org"]}, (None, None)),
        ("https://www.bad.org/", {"hosts": ["www.bad.org"]}, ("host", "www.bad.org")),
        ("https://m.www.bad.org/", {"hosts": ["www.bad.org"]}, (None, None)),
        ("https://x.good.org/", {"domains": ["good.org"], "allow_domains": ["x.good.org"]}, (None, None)),
        ("http://www.a.org/forum/7", {"paths": ["https://a.org/forum/"]}, ("path", "www.a.org/forum")),
        ("http://a.org/forum?x", {"paths": ["www.a.org/forum"]}, ("path", "a.org/forum")),
        ("http://a.org/forums", {"paths": ["a.org/forum"]}, (None, None)),
        ("http://a.org/Forum", {"paths": ["a.org/forum"]}, (None, None)),
        ("http://a.org:80/x?id=3&y=1", {"paths": ["a.org/x?id=3"]}, ("path", "a.org:80/x?id=3")),
        ("http://a.org/best-Ca.si-no", {"words_strict": ["casino"]}, ("word", "Ca.si-no")),
        ("http://a.org/casinos", {"words_hard": ["casino"]}, (None, None)),
        ("http://a.org/a_CASINO-b", {"words_hard": ["casino"]}, ("word", "CASINO")),
        ("http://poker.org/poker/poker", {"words_soft": ["poker", "bet"]}, (None, None)),
        ("http://poker.org/bet", {"words_soft": ["poker", "bet"]}, ("word", "bet")),
        ("http://poker.org/", {"words_soft": ["poker"], "soft_hits": 1}, ("word", "poker")),
        (None, {"domains": ["bad.org"], "words_strict": ["x"]}, (None, None)),
        ("http://xn--bcher-kva.de/", {"domains": ["xn--bcher-kva.de"]}, ("domain", "xn--bcher-kva.de")),
    ],
)
def test_by_hand(url, params, expected):
    assert search([url], **params) == [expected]


HOSTS = st.lists(st.sampled_from(["a", "b", "www", "bad", "x-1"]), min_size=1, max_size=4).map(".".join)
PATHS = st.text("ab/?&#.-A%é", max_size=12)
URLS = st.builds(lambda host, path: f"http://{host}/{path}", HOSTS, PATHS)
WORDS = st.lists(st.text("abAx1", min_size=1, max_size=3), max_size=3)


def slow(url: str, domains, hosts, paths, strict, hard, soft) -> str | None:
    host = urlsplit(url).hostname
    if any(host == domain or host.endswith("." + domain) for domain in domains):
        return "domain"
    if host in hosts:
        return "host"
    bare = url.removeprefix("http://").removeprefix("www.")
    for prefix in paths:
        prefix = prefix.removeprefix("www.").rstrip("/")
        if bare.startswith(prefix) and re.match("[/?#&]|$", bare[len(prefix) :]):
            return "path"
    rest = url.removeprefix("http://").lower()
    words = set(re.split("[^a-z0-9]+", rest))
    if words & {w.lower() for w in hard} or len(words & {w.lower() for w in soft}) >= 2:
        return "word"
    squeezed = re.sub("[^a-z0-9]", "", rest)
    return "word" if any(word.lower() in squeezed for word in strict) else None


@settings(max_examples=300, deadline=None)
@given(st.lists(URLS, min_size=1, max_size=5), st.lists(HOSTS, max_size=2), st.lists(HOSTS, max_size=2),
       st.lists(st.builds("{}/{}".format, HOSTS, st.text("ab/-?", max_size=4)), max_size=2),
       WORDS, WORDS, WORDS)  # fmt: skip
def test_equals_the_slow_definition(urls, domains, hosts, paths, strict, hard, soft):
    found = search(urls, domains=domains, hosts=hosts, paths=paths, words_strict=strict, words_hard=hard,
                   words_soft=soft)  # fmt: skip
    for url, (reason, matched) in zip(urls, found, strict=True):
        assert reason == slow(url, domains, hosts, paths, strict, hard, soft), url
        assert matched is None or matched in url


def make_lists(tmp_path, **files):
    """Run the artifact stage; returns tools with its folder, and what it counted."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    counts = stage_types()["url_lists"].run(None, UrlListsParams(**files), out, None)
    return Folder(out), counts


def test_lists_from_files(tmp_path):
    (tmp_path / "domains.txt").write_text(
        "# comment\n\nbad.org\r\n  Worse.org.\nbad.org\n" + "\n".join(f"d{k}.net" for k in range(5000))
    )
    with gzip.open(tmp_path / "soft.gz", "wt") as file:
        file.write("poker\nbet\n")
    (tmp_path / "strict.txt").write_text("casi-no\n")
    lists = {"domains": "domains.txt", "words_soft": "soft.gz", "words_strict": "strict.txt"}
    files = {name: [str(tmp_path / file)] for name, file in lists.items()}
    tools, counts = make_lists(tmp_path, **files)
    assert (counts["domains"], counts["words_soft"], counts["hosts"]) == (5002, 2, 0)
    urls = [
        "http://x.d4999.net/",
        "http://d5000.net/",
        "http://worse.org/",
        "http://a.org/poker/dice",
        "http://casino.org/",
    ]
    assert [reason for reason, _ in search(urls, tools, lists="lists", words_soft=["dice"])] == [
        "domain", None, "domain", "word", "word"
    ]  # fmt: skip
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "domains.txt").write_text("worse.org\nbad.org\n" + "\n".join(f"d{k}.net" for k in range(4999, -1, -1)))
    make_lists(tmp_path, **files)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first  # whatever the order


def test_a_list_file_is_part_of_the_parameters(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("bad.org\n")
    params = UrlListsParams(domains=[str(path)])
    dumped = params.model_dump(mode="json")
    assert len(dumped["domains"][0]["sha256"]) == 64
    path.write_text("other.org\n")
    assert UrlListsParams(domains=[str(path)]) != params
    again = UrlListsParams.model_validate(dumped)  # as a worker reads it from the plan: the file is not looked at
    assert again == params
    with pytest.raises(ListError, match="the file changed: plan again"):
        stage_types()["url_lists"].run(None, again, tmp_path, None)
    with pytest.raises(ValueError, match="a readable list file"):
        UrlListsParams(domains=[str(tmp_path / "none.txt")])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"domains": ["fine.org", "http://bad.org"]},
            "url_rules.domains, line 2: expected a domain, found 'http://bad.org'",
        ),
        ({"hosts": ["a b"]}, "expected a host, found 'a b'"),
        ({"words_hard": ["--"]}, "expected 1 to 63 ASCII letters or digits, found '--'"),
        ({"words_strict": ["x" * 64]}, "expected 1 to 63"),
        ({"paths": ["https://"]}, "expected `host/path`"),
    ],
)
def test_bad_entries(params, message):
    with pytest.raises(ListError) as error:
        search(["http://a.org/"], **params)
    assert message in str(error.value)


def test_a_broken_list_file(tmp_path):
    path = tmp_path / "list.gz"
    path.write_bytes(gzip.compress(b"bad.org\n" * 1000)[:-20])
    with pytest.raises(ListError, match="expected a gzip file"):
        make_lists(tmp_path, domains=[str(path)])


def test_hostile_urls():
    urls = [text for text in HOSTILE.values() if "[" not in text] + [
        "http://" + "a." * 500_000,
        "http://a/" + "x" * 5_000_000,
    ]
    hosts = [f"{url[:300]}" for url in urls]
    batch = Batch({"url": pa.array(urls), "host": pa.array(hosts)}, len(urls))
    params = UrlRules(domains=["bad.org"], paths=["a.org/b"], words_strict=["casino"], words_soft=["a", "b"])
    out = stage_types()["url_rules"].run(batch, params, None)
    assert len(out.drop) == len(urls)
    assert out.drop.dtype == np.bool_
    out.columns["matched"].validate(full=True)
    sliced = Batch({"url": batch["url"].slice(3), "host": batch["host"].slice(3)}, len(urls) - 3)
    assert stage_types()["url_rules"].run(sliced, params, None).drop.tolist() == out.drop.tolist()[3:]
