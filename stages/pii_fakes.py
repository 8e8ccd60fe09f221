"""Consistent fakes: the same secret gets the same harmless value, everywhere in a run.

A fake is drawn by a keyed hash (BLAKE2b) of the seed and the value, written in one way (an e-mail in lower case, a
number without separators). It comes from a range that is given to nobody: mail at example.com, .org and .net
(RFC 2606), the documentation addresses of RFC 5737 and RFC 3849, telephone numbers 555-0100 to 555-0199 (NANPA), cards
of the issuer 999999, IBANs of country XX, social security numbers of area 000, all with right check digits. For
national ids and secrets there is no such range; they get a placeholder with a pseudonym, `<SECRET:bcdfghjk>`.

Trade-off: the ranges are small (768 IPv4 addresses, 5,000 telephone numbers), so different secrets may share a fake.
Who knows the seed can test a guess; a placeholder tells nothing.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from stages.kernels import pii_checks as checks
from stages.kernels import pii_scan

_FIRST = (
    "alex sam robin kim jordan taylor casey morgan jamie drew chris pat lee max nico toni noa eli ari mika sasha dana "
    "jules remy kai luca quinn rene sky val"
)
_LAST = (
    "hale stone reed lake field brook hill marsh wood ford lane park west north grove dale cross banks moss frost "
    "rivers shore glen heath vale holt birch ash rowan thorn"
)
_AREAS = (
    "201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 224 225 228 229 231 234 239 240 248 251 252 "
    "253 254 256 260 262 267 269 270 276 281 301 302 303 304 305 307 308 309 310 312 313 314"
)
FIRST, LAST, AREAS = _FIRST.split(), _LAST.split(), _AREAS.split()
_NETS = ("192.0.2", "198.51.100", "203.0.113")
_LETTERS = "bcdfghjklmnpqrst"


def _luhn_digit(digits: str) -> str:
    for check in "0123456789":
        if checks.luhn(np.array([int(c) for c in digits + check]), len(digits) + 1):
            return check
    raise AssertionError("one of ten digits always passes")


def _grouped(text: str, old: str) -> str:
    """In groups of four, with the separator that the old value has."""
    separator = next((c for c in old if c in " -"), "")
    return separator.join(re.findall(".{1,4}", text))


def fake(rule: str, kind: str, old: str, seed: int) -> str:
    """The fake of a value; `rule` and `kind` are names of `pii_scan.RULES` and of `pii_shapes.KINDS`."""
    plain = old.lower() if kind in ("email", "ip") else old if kind == "secret" else re.sub(r"[\W_]", "", old).upper()
    key = hashlib.blake2b(f"{seed}:{kind}".encode(), digest_size=32).digest()
    number = int.from_bytes(hashlib.blake2b(plain.encode(), key=key, digest_size=24).digest(), "big")

    def draw(count: int) -> int:
        nonlocal number
        number, rest = divmod(number, count)
        return rest

    if rule == "email":
        name = f"{FIRST[draw(len(FIRST))]}.{LAST[draw(len(LAST))]}{draw(10_000)}"
        return f"{name}@example.{('com', 'org', 'net')[draw(3)]}"
    if rule == "ipv4":
        return f"{_NETS[draw(3)]}.{draw(256)}"
    if rule == "ipv6":
        return f"2001:db8:{draw(2**16):x}:{draw(2**16):x}::{1 + draw(2**16 - 1):x}"
    if rule == "phone":
        return f"{'+1-' if old.startswith(('+', '(+')) else ''}{AREAS[draw(len(AREAS))]}-555-01{draw(100):02d}"
    if rule == "card":
        digits = f"999999{draw(10**9):09d}"
        digits = digits if set(digits) != {"9"} else "999999000000000"
        return _grouped(digits + _luhn_digit(digits), old)
    if rule == "iban":
        account = f"{draw(10**18):018d}"
        return _grouped(f"XX{98 - int(account + '333300') % 97:02d}{account}", old)
    if rule == "us_ssn":
        stream = iter(f"000{1 + draw(99):02d}{1 + draw(9999):04d}")
        return "".join(next(stream) if c.isdigit() else c for c in old)
    return f"<{kind.upper()}:{''.join(_LETTERS[draw(16)] for _ in range(8))}>"


def fakes(rules: np.ndarray, values: list[bytes], seed: int) -> list[bytes]:
    """The fake of each value; `rules` are numbers of `pii_scan.RULES`."""
    made: dict[tuple[int, bytes], bytes] = {}
    for rule, value in zip(rules.tolist(), values, strict=True):
        if (rule, value) not in made:
            kind = pii_scan.shapes.KINDS[pii_scan.KIND_OF_RULE[rule]]
            made[rule, value] = fake(pii_scan.RULES[rule], kind, value.decode(), seed).encode()
    return [made[rule, value] for rule, value in zip(rules.tolist(), values, strict=True)]
