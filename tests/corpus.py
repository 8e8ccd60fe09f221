"""A small synthetic crawl as a true WARC: distinct pages, copies, near-copies, junk and a broken record."""

from __future__ import annotations

import io
import random
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

TEXT = (
    "the of and to in that with have be is was for on are as at by from this it an or which sea mountain river stone "
    "letter winter garden window market bread silver engine paper history science village answer question number "
    "morning evening bridge harbour forest island wheel candle thunder meadow lantern orchard kettle weaver miller"
)
WORDS = TEXT.split()


def sentence(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randint(6, 16))]
    return " ".join(words).capitalize() + "."


def page(rng: random.Random, paragraphs: int) -> str:
    text = "".join(f"<p>{' '.join(sentence(rng) for _ in range(4))}</p>\n" for _ in range(paragraphs))
    return f"<html><head><title>{sentence(rng)}</title></head><body><main>{text}</main></body></html>"


def write_warc(path: Path, pages: int, seed: int) -> None:
    """`pages` response records; every tenth repeats an earlier page, some hold addresses, one is cut short."""
    rng = random.Random(seed)
    bodies: list[str] = []
    with open(path, "wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        for number in range(pages):
            if number % 10 == 9:
                body = rng.choice(bodies)
            elif number % 10 == 8:
                body = rng.choice(bodies).replace("</main>", f"<p>{sentence(rng)}</p></main>")
            elif number % 25 == 7:
                body = "<html><body><p>short</p></body></html>"
            else:
                body = page(rng, rng.randint(4, 9)).replace("</main>", f"<p>Write to a{number}@example.org.</p></main>")
            bodies.append(body)
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            record = writer.create_warc_record(
                f"http://site{seed}.example/page/{number}",
                "response",
                payload=io.BytesIO(body.encode()),
                http_headers=headers,
                warc_headers_dict={"WARC-Date": "2026-01-01T00:00:00Z"},
            )
            writer.write_record(record)
            if number == pages // 2:  # a broken member in the middle: its gzip stream is cut off
                stream.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03broken member")
