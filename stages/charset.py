"""Bytes of a page to text: which charset, and how much damage is believed.

The order is that of browsers (HTML standard, 13.2.3): byte order mark, HTTP header, `<meta>`; then, where browsers
guess by locale, strict UTF-8 and uchardet's detection. Labels follow the WHATWG Encoding standard, so `iso-8859-1`
means windows-1252 and `gb2312` means gb18030. A label is believed when it decodes all but 1 in 1,000 characters: pages
are cut off and pasted together, and one broken byte must not turn a UTF-8 page into windows-1252. Without a label,
broken UTF-8 is still UTF-8 when ten times as many of its characters beyond ASCII are sound: chance makes few of them.

Cost: one decode for a page whose label holds; detection reads at most 128 kB.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

BELIEVED = 0.001  # share of replaced characters up to which a label holds
SOUND = 10  # characters beyond ASCII for each replaced one that make broken bytes without a label UTF-8
UNREADABLE = 0.01  # beyond this, under the best label, the page is not text
_META = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Python codecs that decode what the WHATWG standard decodes under these names.
_WIDER = {"gbk": "gb18030", "euc-kr": "cp949", "euc_kr": "cp949", "shift_jis": "cp932", "big5": "big5hkscs"}


def codec_of(label: str | None) -> str | None:
    """Python codec for a charset label from the web, or None where the label is unknown or unusable."""
    name = map_encoding_to_html5((label or "").strip().strip("'\""), fallback_utf8=False)
    return _WIDER.get(name, name) if name else None


def _candidates(data: bytes, header: str | None) -> Iterator[tuple[str, float]]:
    """Codecs in the order of trust, each with the share of replaced characters up to which it is believed."""
    for bom, codec in _BOMS:
        if data.startswith(bom):
            yield codec, BELIEVED
    meta = _META.search(data[:1024])
    wide = b"\0" in data[:1024]  # markup in UTF-16 is half NULs; without them the label is wrong
    for label in (header, meta.group(1).decode("ascii", "replace") if meta else None):
        named = codec_of(label)
        if named and (wide or not named.startswith("utf-16")):
            yield named, BELIEVED
    yield "utf-8", 0.0
    detected = detect_encoding(data) or "utf-8"
    yield _WIDER.get(detected, detected), BELIEVED
    yield "cp1252", 0.0


def _sound_utf8(text: str) -> bool:
    """Is a text decoded as UTF-8 without a label, with some characters replaced, UTF-8 after all?"""
    replaced = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
    return replaced <= BELIEVED * len(text) and beyond_ascii >= SOUND * replaced


def decode(data: bytes, header: str | None) -> str:
    """Text of `data` under the first charset that is believed, else under the one that replaces least.

    `header` is the charset of the HTTP header, or None. Undecodable bytes become U+FFFD. Raises UnicodeError when
    every charset replaces more than 1 % of the characters: then this is no text.
    """
    best: tuple[float, str, str] | None = None
    tried = set()
    for codec, limit in _candidates(data, header):
        if codec in tried:
            continue
        tried.add(codec)
        try:
            return data.decode(codec).removeprefix("\ufeff")
        except UnicodeDecodeError:
            text = data.decode(codec, "replace").removeprefix("\ufeff")
        share = text.count("\ufffd") / max(1, len(text))
        if (limit and share <= limit) or (codec == "utf-8" and _sound_utf8(text)):
            return text
        if best is None or share < best[0]:
            best = (share, codec, text)
    assert best is not None
    if best[0] > UNREADABLE:
        raise UnicodeError(
            f"expected text, found {len(data)} bytes that no charset decodes "
            f"(header: {header!r}; the best, {best[1]}, replaces {best[0]:.1%} of the characters)"
        )
    return best[2]
