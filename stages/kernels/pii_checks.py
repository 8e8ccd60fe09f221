"""Check digits of cards, IBANs and national ids, compiled.

Each check takes `v`, the values of a number's characters without separators (digits 0-9, letters A-Z as 10-35), and
their count `n`. It answers NO, YES or RESERVED: well formed, but of a range that is given to nobody (the fakes).

Definitions: ISO/IEC 7812-1 (Luhn), ISO 7064 (mod 97-10, mod 11,10, mod 11-2), Verhoeff 1969, and each country's own
rule, as its administration publishes it (collected, with references, by the public project python-stdnum).
"""

from __future__ import annotations

import numpy as np
from numba import njit

NO, YES, RESERVED = 0, 1, 2

_W = {
    "cpf1": (10, 9, 8, 7, 6, 5, 4, 3, 2), "cpf2": (11, 10, 9, 8, 7, 6, 5, 4, 3, 2),
    "cnpj1": (5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2), "cnpj2": (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2),
    "bsn": (9, 8, 7, 6, 5, 4, 3, 2, -1), "pesel": (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1),
    "ean": (1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1), "nhs": (10, 9, 8, 7, 6, 5, 4, 3, 2, 1),
    "fnr1": (3, 7, 6, 1, 8, 9, 4, 5, 2, 1), "fnr2": (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1),
    "cnp": (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9), "egn": (2, 4, 8, 5, 10, 9, 7, 3, 6),
    "nif": (9, 8, 7, 6, 5, 4, 3, 2, 1), "kr": (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5),
    "cn": (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2, 1), "sg": (2, 7, 6, 5, 4, 3, 2),
    "rut": (3, 2, 7, 6, 5, 4, 3, 2),
}  # fmt: skip
(_CPF1, _CPF2, _CNPJ1, _CNPJ2, _BSN, _PESEL, _EAN, _NHS, _FNR1, _FNR2, _CNP, _EGN, _NIF, _KR, _CN, _SG, _RUT) = (
    np.array(weights, np.int64) for weights in _W.values()
)
_DNI, _HETU, _NRIC_ST, _NRIC_FG = (
    np.array([ord(c) - 55 if c.isalpha() else int(c) for c in letters], np.int64)
    for letters in ("TRWAGMYFPDXBNJZSQVHLCKE", "0123456789ABCDEFHJKLMNPRSTUVWXY", "JZIHGFEDCBA", "XWUTRQPNMLK")
)
_CF_ODD = np.array([1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23])
_DAYS = np.array([31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_MULTIPLY = np.array([
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5], [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7], [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3], [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
])  # fmt: skip
_PERMUTE = np.array([
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 5, 7, 6, 2, 8, 3, 0, 9, 4], [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
    [8, 9, 1, 6, 0, 4, 3, 5, 2, 7], [9, 4, 5, 3, 1, 2, 6, 8, 7, 0], [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
    [2, 7, 9, 3, 8, 0, 6, 4, 1, 5], [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
])  # fmt: skip


@njit(cache=True, nogil=True)
def luhn(v, n):
    total = 0
    for k in range(n):
        digit = v[n - 1 - k] * (1 + (k & 1))
        total += digit - 9 * (digit > 9)
    return total % 10 == 0


@njit(cache=True, nogil=True)
def verhoeff(v, n):
    check = 0
    for k in range(n):
        check = _MULTIPLY[check, _PERMUTE[k % 8, v[n - 1 - k]]]
    return check == 0


@njit(cache=True, nogil=True)
def mod97(v, n):
    """ISO 7064 mod 97-10 of an IBAN: the first four characters count last."""
    rest = 0
    for k in range(n):
        value = v[(k + 4) % n]
        rest = (rest * (100 if value > 9 else 10) + value) % 97
    return rest == 1


@njit(cache=True, nogil=True)
def _dot(v, w):
    total = 0
    for k in range(len(w)):
        total += v[k] * w[k]
    return total


@njit(cache=True, nogil=True)
def _number(v, start, stop):
    value = 0
    for k in range(start, stop):
        value = value * 10 + v[k]
    return value


@njit(cache=True, nogil=True)
def _day(v, month_at, day_at):
    """Are there a month and a day of it at these places (two digits each)?"""
    month, day = _number(v, month_at, month_at + 2), _number(v, day_at, day_at + 2)
    return 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1]


@njit(cache=True, nogil=True)
def same(v, n):
    for k in range(1, n):  # noqa: SIM110 - numba has no all()
        if v[k] != v[0]:
            return False
    return True


@njit(cache=True, nogil=True)
def card(v, n):
    """Luhn and a range that Visa, Mastercard, Amex, Discover, JCB, Diners, Maestro or UnionPay issue (ISO/IEC 7812)."""
    if not luhn(v, n) or same(v, n):
        return NO
    p2, p3, p4 = _number(v, 0, 2), _number(v, 0, 3), _number(v, 0, 4)
    if n == 16 and p4 == 9999 and v[4] == 9 and v[5] == 9:
        return RESERVED
    if v[0] == 4:
        return YES if n == 13 or n == 16 or n == 19 else NO
    if p2 == 34 or p2 == 37:
        return YES if n == 15 else NO
    if p4 == 1800 or p4 == 2131:
        return YES if n == 15 else NO
    if 51 <= p2 <= 55 or 2221 <= p4 <= 2720 or p4 == 6011 or 644 <= p3 <= 659 or p2 == 35 or p2 == 62:
        return YES if n == 16 or (n == 19 and p2 == 62) else NO
    if 300 <= p3 <= 305 or p2 == 36 or p2 == 38 or p2 == 39:
        return YES if n == 14 else NO
    if p4 == 5018 or p4 == 5020 or p4 == 5038 or p4 == 5893 or p4 == 6304 or p4 == 6759 or 6761 <= p4 <= 6763:
        return YES if 12 <= n <= 19 else NO
    return NO


@njit(cache=True, nogil=True)
def us_ssn(v, n):
    """Issued ranges of social security numbers and of individual taxpayer numbers (9xx)."""
    area, group, serial = _number(v, 0, 3), _number(v, 3, 5), _number(v, 5, 9)
    if group == 0 or serial == 0 or area == 666 or same(v, 9):
        return NO
    if area == 0:
        return RESERVED
    if area >= 900:
        return YES if 50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or group >= 94 else NO
    return YES


@njit(cache=True, nogil=True)
def us_npi(v, n):
    """Luhn with the prefix 80840 in front, which adds 24."""
    total = 24
    for k in range(n):
        digit = v[n - 1 - k] * (1 + (k & 1))
        total += digit - 9 * (digit > 9)
    return total % 10 == 0


@njit(cache=True, nogil=True)
def br_cpf(v, n):
    first = _dot(v, _CPF1) * 10 % 11 % 10
    second = _dot(v, _CPF2) * 10 % 11 % 10
    return v[9] == first and v[10] == second and not same(v, 11)


@njit(cache=True, nogil=True)
def br_cnpj(v, n):
    first = _dot(v, _CNPJ1) * 10 % 11 % 10
    second = _dot(v, _CNPJ2) * 10 % 11 % 10
    return v[12] == first and v[13] == second and not same(v, 14)


@njit(cache=True, nogil=True)
def cl_rut(v, n):
    """Eight digits and the check, 0-9 or K."""
    check = (11 - _dot(v, _RUT) % 11) % 11
    return v[8] == (20 if check == 10 else check)


@njit(cache=True, nogil=True)
def mx_curp(v, n):
    """18 characters, a birth date at 4 to 9; the check weighs letters in the alphabet with Ñ."""
    if not _day(v, 6, 8) or v[17] > 9 or (v[10] != 17 and v[10] != 22):  # H or M
        return False
    total = 0
    for k in range(17):
        value = v[k]
        total += (18 - k) * (value + (value > 23))
    return v[17] == (10 - total % 10) % 10


@njit(cache=True, nogil=True)
def es_dni(v, n):
    return v[8] == _DNI[_number(v, 0, 8) % 23]


@njit(cache=True, nogil=True)
def es_nie(v, n):
    if v[0] < 33 or v[0] > 35:  # X Y Z
        return False
    return v[8] == _DNI[((v[0] - 33) * 10_000_000 + _number(v, 1, 8)) % 23]


@njit(cache=True, nogil=True)
def it_cf(v, n):
    total = 0
    for k in range(15):
        value = v[k] if v[k] < 10 else v[k] - 10
        total += value if k & 1 else _CF_ODD[value]
    return v[15] == 10 + total % 26


@njit(cache=True, nogil=True)
def be_nrn(v, n):
    if _number(v, 2, 4) > 12 or _number(v, 4, 6) > 31 or same(v, 11):
        return False
    rest, check = _number(v, 0, 9), _number(v, 9, 11)
    return check == 97 - rest % 97 or check == 97 - (2_000_000_000 + rest) % 97


@njit(cache=True, nogil=True)
def fr_nir(v, n):
    if v[0] < 1 or v[0] > 2 or not (1 <= _number(v, 3, 5) <= 12 or 20 <= _number(v, 3, 5) <= 42):
        return False
    return _number(v, 13, 15) == 97 - _number(v, 0, 13) % 97


@njit(cache=True, nogil=True)
def de_idnr(v, n):
    """ISO 7064 mod 11,10, first digit not 0; among the first ten, one digit occurs two or three times, one never."""
    kinds = 0
    for digit in range(10):
        for k in range(10):
            if v[k] == digit:
                kinds += 1
                break
    product = 10
    for k in range(10):
        total = (v[k] + product) % 10
        product = (10 if total == 0 else total) * 2 % 11
    return v[0] != 0 and v[10] == (11 - product) % 10 and 8 <= kinds <= 9


@njit(cache=True, nogil=True)
def cz_rc(v, n):
    month = _number(v, 2, 4) % 50
    if not (1 <= month % 20 <= 12 and 1 <= _number(v, 4, 6) <= 31):
        return False
    check = _number(v, 0, 9) % 11
    return v[9] == check % 10


@njit(cache=True, nogil=True)
def se_pnr(v, n):
    """A birth date (the day plus 60 for a coordination number) and Luhn over the last ten digits."""
    at = n - 10
    if n == 12 and not 18 <= _number(v, 0, 2) <= 20:
        return False
    month, day = _number(v, at + 2, at + 4), _number(v, at + 4, at + 6)
    day -= 60 * (day > 60)
    return 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1] and luhn(v[at:], 10)


@njit(cache=True, nogil=True)
def fi_hetu(v, n):
    """ddmmyy, a century sign (a letter sits at v[6] when the sign is none of + -), three digits, the check."""
    at = n - 4
    if not _day(v, 2, 0) or (n == 11 and not (10 <= v[6] <= 15 or 30 <= v[6] <= 34)):
        return False
    return v[n - 1] == _HETU[(_number(v, 0, 6) * 1000 + _number(v, at, at + 3)) % 31]


@njit(cache=True, nogil=True)
def no_fnr(v, n):
    day = _number(v, 0, 2)
    day -= 40 * (day > 40)
    return 1 <= day <= 31 and _dot(v, _FNR1) % 11 == 0 and _dot(v, _FNR2) % 11 == 0


@njit(cache=True, nogil=True)
def ro_cnp(v, n):
    check = _dot(v, _CNP) % 11
    return v[0] > 0 and _day(v, 3, 5) and v[12] == (1 if check == 10 else check)


@njit(cache=True, nogil=True)
def bg_egn(v, n):
    month = _number(v, 2, 4) % 20
    return 1 <= month <= 12 and 1 <= _number(v, 4, 6) <= 31 and v[9] == _dot(v, _EGN) % 11 % 10


@njit(cache=True, nogil=True)
def pt_nif(v, n):
    return v[0] != 0 and v[8] == (11 - _dot(v[:8], _NIF[:8]) % 11) % 11 % 10


@njit(cache=True, nogil=True)
def tr_tckn(v, n):
    odd = v[0] + v[2] + v[4] + v[6] + v[8]
    even = v[1] + v[3] + v[5] + v[7]
    return v[0] != 0 and v[9] == (odd * 7 - even) % 10 and v[10] == (odd + even + v[9]) % 10


@njit(cache=True, nogil=True)
def cn_rid(v, n):
    """ISO 7064 mod 11-2 (GB 11643-1999), with a birth date since 1900."""
    century = _number(v, 6, 8)
    last = 10 if v[17] == 33 else v[17]  # X
    if last > 10 or v[0] == 0 or century < 19 or century > 20 or not _day(v, 10, 12):
        return False
    return (_dot(v[:17], _CN[:17]) + last) % 11 == 1


@njit(cache=True, nogil=True)
def kr_rrn(v, n):
    return _day(v, 2, 4) and v[12] == (11 - _dot(v[:12], _KR) % 11) % 10


@njit(cache=True, nogil=True)
def sg_nric(v, n):
    total = _dot(v[1:8], _SG)
    if v[0] == 28 or v[0] == 29:  # S T
        return v[8] == _NRIC_ST[(total + 4 * (v[0] == 29)) % 11]
    if v[0] == 15 or v[0] == 16:  # F G
        return v[8] == _NRIC_FG[(total + 4 * (v[0] == 16)) % 11]
    return False


@njit(cache=True, nogil=True)
def gb_nhs(v, n):
    return _dot(v, _NHS) % 11 == 0 and not same(v, 10)


@njit(cache=True, nogil=True)
def za_id(v, n):
    return _day(v, 2, 4) and v[10] < 2 and luhn(v, 13)


@njit(cache=True, nogil=True)
def nl_bsn(v, n):
    return _dot(v, _BSN) % 11 == 0 and not same(v, 9)


@njit(cache=True, nogil=True)
def pl_pesel(v, n):
    month = _number(v, 2, 4) % 20
    return 1 <= month <= 12 and 1 <= _number(v, 4, 6) <= 31 and _dot(v, _PESEL) % 10 == 0


@njit(cache=True, nogil=True)
def ch_ahv(v, n):
    return _number(v, 0, 3) == 756 and _dot(v, _EAN) % 10 == 0


@njit(cache=True, nogil=True)
def ca_sin(v, n):
    return v[0] != 0 and v[0] != 8 and luhn(v, 9) and not same(v, 9)


@njit(cache=True, nogil=True)
def in_aadhaar(v, n):
    return v[0] > 1 and verhoeff(v, 12)
