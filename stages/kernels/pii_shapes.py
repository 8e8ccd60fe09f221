"""Numbers with a fixed shape and a check: payment cards, national ids, IBANs.

A shape writes 9 for a digit and A for a capital letter: a Spanish DNI is `99999999A`. From the first character of a
number the matcher extends a hash of the shape seen so far and, wherever the number may end, looks it up in one sorted
table; the longest shape whose check holds wins. So a new scheme is a line of SCHEMES and a check, and costs nothing
where its shape does not occur. Shapes that any digit run has (`context`) count only near a word that names the scheme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stages.kernels import pii_checks as checks
from stages.kernels import pii_context as near

KINDS = ("email", "ip", "phone", "card", "iban", "national_id", "secret")
EMAIL, IP, PHONE, CARD, IBAN, NATIONAL_ID, SECRET = range(len(KINDS))
MAX_SHAPE = 26


@dataclass(frozen=True)
class Scheme:
    """`shapes` stand for themselves; those in `context` need a word of the scheme's context class before them."""

    name: str
    shapes: tuple[str, ...] = ()
    context: tuple[str, ...] = ()


def _card_shapes() -> tuple[str, ...]:
    spaced = [sep.join(["9999"] * 3 + ["9" * last]) for sep in " -" for last in (1, 4)]
    spaced += [sep.join(["9999", "999999", "9" * last]) for sep in " -" for last in (4, 5)]
    return (*("9" * n for n in range(12, 20)), *spaced, "9999 9999 9999 9999 999")


SCHEMES = (
    Scheme("card", _card_shapes()),
    Scheme("us_ssn", ("999-99-9999",), ("999999999", "999 99 9999", "999.99.9999")),
    Scheme("us_npi", (), ("9999999999",)),
    Scheme("ca_sin", (), ("999999999", "999 999 999", "999-999-999")),
    Scheme("br_cpf", ("999.999.999-99",), ("99999999999",)),
    Scheme("br_cnpj", ("99.999.999/9999-99",), ("99999999999999",)),
    Scheme("cl_rut", ("99.999.999-9", "99.999.999-A"), ("99999999-9", "99999999-A")),
    Scheme("mx_curp", ("AAAA999999AAAAAA99", "AAAA999999AAAAAAA9")),
    Scheme("es_dni", ("99999999-A", "99.999.999-A"), ("99999999A",)),
    Scheme("es_nie", ("A9999999A", "A-9999999-A", "A9999999-A")),
    Scheme("it_cf", ("AAAAAA99A99A999A", "AAA AAA 99A99 A999A")),
    Scheme("nl_bsn", (), ("999999999", "9999.99.999", "999.999.999", "9999 99 999")),
    Scheme("be_nrn", ("99.99.99-999.99",), ("99999999999", "999999-999-99")),
    Scheme("fr_nir", ("9 99 99 99 999 999 99",), ("999999999999999", "9999999999999 99")),
    Scheme("de_idnr", (), ("99999999999", "99 999 999 999")),
    Scheme("ch_ahv", ("999.9999.9999.99",), ("9999999999999",)),
    Scheme("pl_pesel", (), ("99999999999",)),
    Scheme("cz_rc", ("999999/9999",), ()),
    Scheme("se_pnr", ("999999-9999", "99999999-9999", "999999+9999"), ("9999999999", "999999999999")),
    Scheme("fi_hetu", ("999999-999A", "999999-9999", "999999A999A", "999999A9999", "999999+999A", "999999+9999")),
    Scheme("no_fnr", (), ("99999999999", "999999 99999")),
    Scheme("ro_cnp", (), ("9999999999999",)),
    Scheme("bg_egn", (), ("9999999999",)),
    Scheme("pt_nif", (), ("999999999", "999 999 999")),
    Scheme("tr_tckn", (), ("99999999999",)),
    Scheme("in_aadhaar", (), ("999999999999", "9999 9999 9999", "9999-9999-9999")),
    Scheme("cn_rid", ("9" * 18, "9" * 17 + "A")),
    Scheme("kr_rrn", ("999999-9999999",)),
    Scheme("sg_nric", ("A9999999A",)),
    Scheme("gb_nhs", (), ("9999999999", "999 999 9999", "999-999-9999")),
    Scheme("named_card", (), _card_shapes()),
    Scheme("za_id", (), ("9999999999999", "999999 9999 99 9")),
)
CARDS = ("card", "named_card")  # of an issuing network; any with Luhn after a word such as card
IBAN_RULE = len(SCHEMES)  # number of the rule after the schemes
(_CARD, _SSN, _NPI, _SIN, _CPF, _CNPJ, _RUT, _CURP, _DNI, _NIE, _CF, _BSN, _NRN, _NIR,
 _IDNR, _AHV, _PESEL, _RC, _PNR, _HETU, _FNR, _CNP, _EGN, _NIF, _TCKN, _AADHAAR, _RID, _RRN,
 _NRIC, _NHS, _NAMED, _ZA) = range(len(SCHEMES))  # fmt: skip

_ROWS = sorted(
    (near.fnv(shape.encode()), number, near.BIT.get(scheme.name, 0) if shape in scheme.context else 0)
    for number, scheme in enumerate(SCHEMES)
    for shape in scheme.shapes + scheme.context
)
_HASHES = np.array([row[0] for row in _ROWS], np.uint64)
_NUMBERS = np.array([row[1] for row in _ROWS], np.int64)
_NEEDS = np.array([row[2] for row in _ROWS], np.int64)
# A Bloom filter over the hashes, so that the binary search is rare.
_SEEN = np.zeros(4096, np.bool_)
_SEEN[(_HASHES & np.uint64(4095)).astype(np.int64)] = True
MIN_SHAPE = min(len(shape) for scheme in SCHEMES for shape in scheme.shapes + scheme.context)

_COUNTRIES = (  # ISO 13616 registry: length of the IBAN by country
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 "
    "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 "
    "NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 "
    "SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30 "
    "XX22"  # XX is nobody's country (ISO 3166, user-assigned): the fakes
)
IBAN_LENGTH = np.zeros(26 * 26, np.int64)
for _entry in _COUNTRIES.split():
    IBAN_LENGTH[(ord(_entry[0]) - 65) * 26 + ord(_entry[1]) - 65] = int(_entry[2:])

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@njit(cache=True, nogil=True)
def _check(number, v, n):
    """Answer of the check of a scheme; an if-chain, because Numba cannot cache a table of functions."""
    if number == _CARD:
        return checks.card(v, n)
    if number == _SSN:
        return checks.us_ssn(v, n)
    ok = False
    if number == _NPI:
        ok = checks.us_npi(v, n)
    elif number == _SIN:
        ok = checks.ca_sin(v, n)
    elif number == _CPF:
        ok = checks.br_cpf(v, n)
    elif number == _CNPJ:
        ok = checks.br_cnpj(v, n)
    elif number == _RUT:
        ok = checks.cl_rut(v, n)
    elif number == _CURP:
        ok = checks.mx_curp(v, n)
    elif number == _DNI:
        ok = checks.es_dni(v, n)
    elif number == _NIE:
        ok = checks.es_nie(v, n)
    elif number == _CF:
        ok = checks.it_cf(v, n)
    elif number == _BSN:
        ok = checks.nl_bsn(v, n)
    elif number == _NRN:
        ok = checks.be_nrn(v, n)
    elif number == _NIR:
        ok = checks.fr_nir(v, n)
    elif number == _IDNR:
        ok = checks.de_idnr(v, n)
    elif number == _AHV:
        ok = checks.ch_ahv(v, n)
    elif number == _PESEL:
        ok = checks.pl_pesel(v, n)
    elif number == _RC:
        ok = checks.cz_rc(v, n)
    elif number == _PNR:
        ok = checks.se_pnr(v, n)
    elif number == _HETU:
        ok = checks.fi_hetu(v, n)
    elif number == _FNR:
        ok = checks.no_fnr(v, n)
    elif number == _CNP:
        ok = checks.ro_cnp(v, n)
    elif number == _EGN:
        ok = checks.bg_egn(v, n)
    elif number == _NIF:
        ok = checks.pt_nif(v, n)
    elif number == _TCKN:
        ok = checks.tr_tckn(v, n)
    elif number == _AADHAAR:
        ok = checks.in_aadhaar(v, n)
    elif number == _RID:
        ok = checks.cn_rid(v, n)
    elif number == _RRN:
        ok = checks.kr_rrn(v, n)
    elif number == _NRIC:
        ok = checks.sg_nric(v, n)
    elif number == _NHS:
        ok = checks.gb_nhs(v, n)
    elif number == _NAMED:
        ok = checks.luhn(v, n) and not checks.same(v, n)
    elif number == _ZA:
        ok = checks.za_id(v, n)
    return checks.YES if ok else checks.NO


@njit(cache=True, nogil=True)
def _look_up(data, lo, s, h, v, n, wanted):
    """`(scheme, answer)` of the first scheme of this shape whose check holds, or `(-1, NO)`."""
    left, right = 0, len(_HASHES)
    while left < right:
        middle = (left + right) // 2
        if _HASHES[middle] < h:
            left = middle + 1
        else:
            right = middle
    context, known = np.int64(0), False
    while left < len(_HASHES) and _HASHES[left] == h:
        number, needs = _NUMBERS[left], _NEEDS[left]
        left += 1
        if not (wanted >> number) & 1:
            continue
        if needs:
            if not known:
                context, _, _ = near.before(data, lo, s)
                known = True
            if not context & needs:
                continue
        answer = _check(number, v, n)
        if answer != checks.NO:
            return number, answer
    return np.int64(-1), checks.NO


@njit(cache=True, nogil=True)
def match(data, lo, s, end, wanted, v):
    """`(end, scheme, answer)` of the longest number with a known shape at `s`, or `(s, -1, NO)`.

    `wanted` has a bit for each scheme; `v` is scratch, int64[>= 34].
    """
    h, n, p = _OFFSET, 0, s
    best, best_scheme, best_answer = s, np.int64(-1), checks.NO
    spaces = False
    while p < end and p - s < MAX_SHAPE:
        byte = data[p]
        bits = near.CLASS[byte]
        if bits & near.DIGIT:
            v[n], norm = byte - 48, np.uint64(57)
            n += 1
        elif bits & near.UPPER:
            v[n], norm = byte - 55, np.uint64(65)
            n += 1
        elif byte == 45 or byte == 46 or byte == 32 or byte == 47 or byte == 43:  # - . space / +
            if p == s or p + 1 >= end or not near.CLASS[data[p + 1]] & (near.DIGIT | near.UPPER):
                break
            spaces |= byte == 32
            norm = np.uint64(byte)
        else:
            break
        h = (h ^ norm) * _PRIME
        p += 1
        if p - s < MIN_SHAPE or not _SEEN[np.int64(h & np.uint64(4095))] or not near.right_edge(data, p, end):
            continue
        if spaces and p + 1 < end and data[p] == 32 and near.CLASS[data[p + 1]] & near.DIGIT:
            continue  # in a row of a table
        scheme, answer = _look_up(data, lo, s, h, v, n, wanted)
        if scheme >= 0:
            best, best_scheme, best_answer = p, scheme, answer
    if best > s and spaces and s > lo + 1 and data[s - 1] == 32 and near.CLASS[data[s - 2]] & near.DIGIT:
        return s, np.int64(-1), checks.NO
    return best, best_scheme, best_answer


@njit(cache=True, nogil=True)
def iban(data, s, end, v):
    """`(end, answer)` of the IBAN at `s`, in groups of four or without separators, in either case."""
    a, b = (data[s] & 0xDF) - 65, (data[s + 1] & 0xDF) - 65
    if a > 25 or b > 25:
        return s, checks.NO
    length = IBAN_LENGTH[np.int64(a) * 26 + np.int64(b)]
    n, p, separator = 0, s, np.uint8(0)
    while n < length and p < end:
        byte = data[p]
        bits = near.CLASS[byte]
        if n and n % 4 == 0 and (byte == 32 or byte == 45) and p > s and near.CLASS[data[p - 1]] & near.WORD:
            if n > 4 and byte != separator:
                return s, checks.NO
            separator = byte
            p += 1
            continue
        if bits & near.DIGIT:
            v[n] = byte - 48
        elif bits & near.LETTER and (n < 2 or n > 3):
            v[n] = (byte & 0xDF) - 55
        else:
            return s, checks.NO
        n += 1
        p += 1
    if n == 0 or n < length or (p < end and near.CLASS[data[p]] & near.WORD) or not checks.mod97(v, n):
        return s, checks.NO
    return p, checks.RESERVED if a == 23 and b == 23 else checks.YES
