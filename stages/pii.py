"""Replace personal data by placeholders: e-mail, IP address, phone, credit card, IBAN, US social security number.

Every kind is found by its form and, where it has one, its check: Luhn for cards, mod 97 and the length for IBANs
(ISO 13616), valid octets and the address registries for IPs, issued ranges for social security numbers. What is no
person's stays: private, loopback, documentation and other reserved IP addresses, and dotted numbers that are
versions or sections ("kernel 5.15.0.107", "v1.2.3.4", longer dotted runs, all four octets below 32, which is one
address of 4,000). Phones are found only in the international form (+49 30 ...) or as (212) 555-0123 and 212-555-0123
with separators; bare digits are not.

A placeholder is the kind in angle brackets, `<EMAIL>`; scrubbing twice changes nothing more. Trade-off: names and
street addresses are not looked for; that takes a model, at a thousand times the cost. Cost: a compiled search (RE2)
over the batch for each kind, about 800 MB of text a second; only texts with a hit are read by Python, so about
35 MB a second on manuals full of addresses and more elsewhere.
"""

from __future__ import annotations

import bisect
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.stage import Batch, Params, Tools, doc_stage

Span = tuple[int, int, str]  # start, end, kind
KindName = Literal["email", "ip", "phone", "card", "iban", "ssn"]
_IBAN_COUNTRIES = (
    "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 DO:28 "
    "EE:20 EG:29 ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 "
    "IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 "
    "NL:18 NO:15 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 SA:24 SC:31 SE:24 SI:19 SK:24 SM:27 SV:28 TL:23 TN:24 "
    "TR:26 UA:29 VA:22 VG:24 XK:20"
)
_IBAN_LENGTHS = dict(pair.split(":") for pair in _IBAN_COUNTRIES.split())
_VERSION_BEFORE = re.compile(r"(?i)(?:\b(?:v|ver|vers|version|versions|release|rev|revision|build|kernel|firmware|"
                             r"driver|linux|chrome|chromium|section|chapter|oid)[\s:.=/#-]*|[\w.]/)\Z")  # fmt: skip


_BOUNDS = {str(2**31 - 1), str(2**31), str(2**32 - 1), str(2**32)}  # "-2147483648 to +2147483647"


def luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1 over a string of digits."""
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


# Numbers that the networks issue: Visa, Mastercard, American Express, Discover, JCB, Diners Club, Maestro, UnionPay.
_NETWORK = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}|"
    r"(?:6011|64[4-9]\d|65\d\d|35\d\d|62\d\d)\d{12}|(?:1800|2131)\d{11}|3(?:0[0-5]|[689]\d)\d{11}|"
    r"(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{8,15}"
)


def _card(match: re.Match) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return _NETWORK.fullmatch(digits) is not None and luhn(digits)


def _iban(match: re.Match) -> bool:
    code = re.sub(r"[ -]", "", match[0]).upper()
    if _IBAN_LENGTHS.get(code[:2]) != str(len(code)):
        return False
    return int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4])) % 97 == 1


def _ssn(match: re.Match) -> bool:
    area, group, serial = re.findall(r"\d+", match[0])
    return area not in ("000", "666") and group != "00" and serial != "0000"


def _phone(match: re.Match) -> bool:
    digits = re.sub(r"\D", "", re.split(r"(?i)x|ext", match[0])[0])
    return 8 <= len(digits) <= 15 and len(set(digits)) > 3 and digits not in _BOUNDS


def _ip(match: re.Match) -> bool:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast:
        return False
    if address.version == 6:
        return int(address) >> 125 == 1  # 2000::/3, all that is given out; so `A::a` in a program is none
    before = match.string[max(0, match.start() - 24) : match.start()]
    return max(address.packed) >= 32 and not _VERSION_BEFORE.search(before)


@dataclass(frozen=True)
class Kind:
    """`hint` (RE2) must match wherever `pattern` does; `check` says whether a match really is one."""

    count: str
    hint: str
    pattern: re.Pattern
    check: Callable[[re.Match], bool]


_DIGIT_EDGE, _DIGIT_END = r"(?<![\w+-])(?<!\d[.,])", r"(?![\w]|[.-]\d)"
KINDS: dict[str, Kind] = {
    "email": Kind(
        "emails",
        r"@[\pL\pN]",
        re.compile(r"(?<![\w.%+-])[\w%+-](?:[\w.%+-]{0,62}[\w%+-])?@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
                   r"[^\W\d_]{2,24}(?![\w-])"),
        lambda match: ".." not in match[0],
    ),
    "iban": Kind(
        "ibans",
        r"(?i)[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}",
        re.compile(r"(?i)(?<![^\W_])[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?:[ -][A-Z0-9]{4}){2,7}(?:[ -][A-Z0-9]{1,3})?)"
                   r"(?![^\W_])", re.ASCII),
        _iban,
    ),
    "ip": Kind(
        "ips",
        r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:",
        re.compile(r"(?<![\w.+-])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w-]|\.\w)"
                   r"|(?<![\w:.])[23][0-9A-Fa-f]{3}(?::{1,2}[0-9A-Fa-f]{1,4}){1,7}(?:::)?(?!\w|:\w)",
                   re.ASCII),
        _ip,
    ),
    "card": Kind(
        "cards",
        r"[0-9](?:[ -]?[0-9]){11}",
        re.compile(_DIGIT_EDGE + r"(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5})" + _DIGIT_END,
                   re.ASCII),
        _card,
    ),
    "ssn": Kind(
        "ssns",
        r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        re.compile(_DIGIT_EDGE + r"\d{3}-\d{2}-\d{4}" + _DIGIT_END, re.ASCII),
        _ssn,
    ),
    "phone": Kind(
        "phones",
        r"\+\(?[0-9]|\([0-9]{3}\) ?[0-9]{3}|[0-9]{3}[-.][0-9]{3}[-.][0-9]{4}|00[1-9][0-9]{0,2}[ .-]",
        re.compile(r"(?<![\w.,+-])(?:(?:\+(?:\(\d{1,3}\)|[1-9]\d{0,14})|00[1-9]\d{0,2}(?=[ .-]))"
                   r"(?:[ .-]?\(\d{1,5}\)[ .-]?\d{2,8}|[ .-]\d{2,8}){0,6}"
                   r"|(?:1[ .-])?(?:\(\d{3}\)[ ]?|\d{3}-)\d{3}[-. ]\d{4}|\d{3}\.\d{3}\.\d{4})"
                   r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?![\w]|[.,-]\d)", re.ASCII),
        _phone,
    ),
}  # fmt: skip
_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())])


class Pii(Params):
    kinds: tuple[KindName, ...] = Field(
        ("email", "ip", "phone", "card", "iban", "ssn"), description="kinds of personal data to replace", min_length=1
    )


def _matches(text: str, kinds: Iterable[str]) -> list[Span]:
    """Disjoint spans, ascending; where kinds overlap the first of KINDS wins."""
    spans: list[Span] = []
    for name in (name for name in KINDS if name in kinds):
        taken, at = sorted(spans), 0
        for match in KINDS[name].pattern.finditer(text):
            start, end = match.span()
            while at < len(taken) and taken[at][1] <= start:
                at += 1
            if (at == len(taken) or taken[at][0] >= end) and KINDS[name].check(match):
                spans.append((start, end, name))
    return sorted(spans)


def find(text: str, kinds: Iterable[str]) -> list[Span]:
    """Disjoint spans (start, end, kind) in code points, ascending, of all that `replace` has to replace.

    A placeholder may free a neighbour (in "a@b.com+493012345678" the phone once had a letter before it), so the search
    goes on until nothing is found. Each round takes digits or an "@" away, and no placeholder has any.
    """
    kinds = list(kinds)
    spans = _matches(text, kinds)
    while more := _matches(replace(text, spans), kinds) if spans else []:
        shifts, shift = [], 0  # (start of a placeholder in the new text, what to add to positions after it)
        for start, end, name in spans:
            at = start - shift
            shift += end - start - len(f"<{name.upper()}>")
            shifts.append((at, shift))
        starts = [at for at, _ in shifts]
        for start, end, name in more:
            before = bisect.bisect(starts, start)
            offset = shifts[before - 1][1] if before else 0
            spans.append((start + offset, end + offset, name))
        spans.sort()
    return spans


def replace(text: str, spans: list[Span]) -> str:
    """The text with each span as its placeholder, such as `<EMAIL>`."""
    parts, last = [], 0
    for start, end, name in spans:
        parts += [text[last:start], f"<{name.upper()}>"]
        last = end
    return "".join([*parts, text[last:]])


@doc_stage(
    "pii", Pii, reads=("text",),
    adds=[("text", pa.string()), *((kind.count, pa.int32()) for kind in KINDS.values()), ("spans", pa.list_(_SPAN))],
)  # fmt: skip
def pii(batch: Batch, params: Pii, tools: Tools) -> dict[str, pa.Array]:
    """Replace personal data in the text by `<EMAIL>`, `<IP>`, `<PHONE>`, `<CARD>`, `<IBAN>`, `<SSN>`.

    Adds the new `text`, a count for each kind (`emails`, `ips`, `phones`, `cards`, `ibans`, `ssns`) and `spans`: start
    and end in code points of the old text, with the kind.
    """
    text = batch["text"]
    hints = {name: pc.match_substring_regex(text, KINDS[name].hint) for name in KINDS if name in params.kinds}
    likely = {name: np.asarray(pc.fill_null(hint, False), bool) for name, hint in hints.items()}
    rows = np.flatnonzero(np.any(list(likely.values()), axis=0))
    counts = {name: np.zeros(len(text), np.int32) for name in KINDS}
    spans: list[list[dict]] = [[]] * len(text)
    changed = np.zeros(len(text), bool)
    new: list[str] = []
    for row, old in zip(rows.tolist(), text.take(pa.array(rows)).to_pylist(), strict=True):
        found = find(old, [name for name in likely if likely[name][row]])
        if found:
            changed[row] = True
            new.append(replace(old, found))
            spans[row] = [{"start": start, "end": end, "kind": kind} for start, end, kind in found]
            for _, _, kind in found:
                counts[kind][row] += 1
    result = {"text": pc.replace_with_mask(text, pa.array(changed), pa.array(new, text.type)) if new else text}
    result |= {KINDS[name].count: pa.array(values) for name, values in counts.items()}
    result["spans"] = pa.array(spans, pa.list_(_SPAN))
    return result
