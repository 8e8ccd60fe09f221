"""Byte classes, edges and the words around a candidate: what the matchers of personal data share.

A number alone is rarely personal data; the words near it decide. A word (a run of ASCII letters or bytes over 0x7F, at
most 64 bytes away) is hashed with the ASCII letters folded and looked up in one table of classes: telephone words,
words of other numbers (order, invoice, ISBN ...), version words, and the names of national ids. Cost: about 100 ns for
each look-up, which only candidates pay.
"""

from __future__ import annotations

import numpy as np
from numba import njit

DIGIT, UPPER, LETTER, WORD, HEX, LOCAL, TOKEN = (np.uint8(1 << k) for k in range(7))
REACH = 64  # bytes of context

CLASS = np.zeros(256, np.uint8)
for _c in b"0123456789":
    CLASS[_c] |= DIGIT | WORD | HEX | LOCAL | TOKEN
for _c in b"abcdefghijklmnopqrstuvwxyz":
    CLASS[_c] |= LETTER | WORD | LOCAL | TOKEN
    CLASS[_c - 32] |= LETTER | UPPER | WORD | LOCAL | TOKEN
for _c in b"abcdefABCDEF":
    CLASS[_c] |= HEX
CLASS[ord("_")] |= WORD
for _c in b"._%+-'":
    CLASS[_c] |= LOCAL
for _c in b"_-":
    CLASS[_c] |= TOKEN

_NAMES = {
    "phone": "phone phones telephone tel tele telefon telefone telefono teléfono téléphone telefoon telefonnummer tlf "
    "mobile mobil móvil movil cellphone celular cellulare handy fax sms whatsapp hotline helpline landline gsm natel "
    "rufnummer pager voicemail телефон тел моб",
    "contact": "call cell cellular dial dialing ring contact reach reached ph mob portable desk toll answering numéro",
    "after": "office fax mobile cell home work desk tel phone voice hotline",
    "number": "order orders invoice isbn issn doi serial model part parts sku item items article patent case ticket "
    "bug issue rfc mrn npi ssn dea account acct policy passport license licence id ids vin imei record records "
    "reference ref po tracking barcode ean upc asin catalog catalogue zip postcode postal version pp vol volume pages "
    "page commit build pid uid oid lot batch port ports total usd eur population",
    "version": "v ver vers version versions release rev revision build kernel firmware driver linux chrome chromium "
    "firefox section chapter oid r",
    "named_card": "card cards credit debit visa mastercard maestro amex discover diners unionpay carte tarjeta karte",
    "us_ssn": "ssn ssns social itin taxpayer tin",
    "us_npi": "npi",
    "ca_sin": "sin insurance nas",
    "br_cpf": "cpf",
    "br_cnpj": "cnpj",
    "es_dni": "dni nif nie documento identidad",
    "nl_bsn": "bsn burgerservicenummer sofinummer sofi",
    "be_nrn": "rijksregisternummer rijksregister insz niss registre",
    "fr_nir": "nir insee sécu sécurité securite",
    "de_idnr": "idnr steuerid steueridentifikationsnummer identifikationsnummer steuer idno",
    "pl_pesel": "pesel",
    "se_pnr": "personnummer pnr samordningsnummer",
    "no_fnr": "fødselsnummer fodselsnummer fnr personnummer",
    "ro_cnp": "cnp",
    "bg_egn": "egn егн ЕГН",
    "pt_nif": "nif contribuinte",
    "tr_tckn": "tc tckn kimlik",
    "in_aadhaar": "aadhaar aadhar adhaar uidai",
    "gb_nhs": "nhs",
    "za_id": "identity rsa",
    "it_cf": "codice fiscale",
    "cl_rut": "rut run",
    "cn_rid": "身份证 身份证号 居民身份证",
}
BIT = {name: 1 << k for k, name in enumerate(_NAMES)}
PHONE, CONTACT, AFTER, NUMBER, VERSION = (BIT[name] for name in ("phone", "contact", "after", "number", "version"))

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def fnv(text: bytes) -> int:
    """FNV-1a, 64 bit."""
    value = int(_OFFSET)
    for byte in text:
        value = ((value ^ byte) * int(_PRIME)) % 2**64
    return value


_SLOTS = 1024
_KEYS, _BITS = np.zeros(_SLOTS, np.uint64), np.zeros(_SLOTS, np.int64)
for _name, _words in _NAMES.items():
    for _word in _words.split():
        _value = fnv(_word.encode())
        _slot = _value % _SLOTS
        while _KEYS[_slot] not in (0, _value):
            _slot = (_slot + 1) % _SLOTS
        _KEYS[_slot] = _value
        _BITS[_slot] |= BIT[_name]


@njit(cache=True, nogil=True)
def word_class(data, start, end):
    """Bits of the classes that the word `data[start:end]` belongs to."""
    value = _OFFSET
    for k in range(start, end):
        byte = data[k]
        if 65 <= byte <= 90:
            byte |= np.uint8(32)
        value = (value ^ np.uint64(byte)) * _PRIME
    slot = np.int64(value & np.uint64(_SLOTS - 1))
    while _KEYS[slot] != 0:
        if _KEYS[slot] == value:
            return _BITS[slot]
        slot = (slot + 1) & (_SLOTS - 1)
    return np.int64(0)


@njit(cache=True, nogil=True)
def _is_letter(byte):
    """Bytes over 0x7F count as letters, but not the lead byte of Latin-1 signs such as the no-break space."""
    return (CLASS[byte] & LETTER) != 0 or (byte >= 0x80 and byte != 0xC2)


@njit(cache=True, nogil=True)
def _letter_before(data, floor, p):
    return p > floor and _is_letter(data[p - 1]) and not (p - 1 > floor and data[p - 2] == 0xC2)


@njit(cache=True, nogil=True)
def before(data, lo, i):
    """Classes of the words between `lo` and `i`, the telephone or number class of the nearest with one, its end."""
    floor = max(lo, i - REACH)
    union, nearest, at = np.int64(0), np.int64(0), floor
    p = i
    while p > floor:
        while p > floor and not _letter_before(data, floor, p):
            p -= 1
        stop = p
        while _letter_before(data, floor, p):
            p -= 1
        if p < stop:
            bits = word_class(data, p, stop)
            union |= bits
            if nearest == 0 and bits & (PHONE | CONTACT | NUMBER):
                nearest, at = bits & (PHONE | CONTACT | NUMBER), stop
    return union, nearest, at


@njit(cache=True, nogil=True)
def after(data, i, end):
    """Classes of the next word, when at most three marks or spaces stand between."""
    p = i
    while p < end and p < i + 4 and not _is_letter(data[p]):
        if CLASS[data[p]] & DIGIT or data[p] == 10 or data[p] == 60:  # a placeholder is no word
            return np.int64(0)
        p += 1
    stop = p
    while stop < end and stop < p + 12 and _is_letter(data[stop]):
        stop += 1
    return word_class(data, p, stop)


@njit(cache=True, nogil=True)
def is_version(data, lo, i):
    """Does a version word, or a path such as `lib/`, stand right before i?"""
    if i > lo + 1 and data[i - 1] == 47 and (CLASS[data[i - 2]] & WORD or data[i - 2] == 46):
        return True
    p = i
    while p > lo and p > i - 4 and not _letter_before(data, lo, p) and not CLASS[data[p - 1]] & DIGIT:
        p -= 1
    stop = p
    while p > i - REACH and _letter_before(data, lo, p):
        p -= 1
    if p == stop or (p > lo and CLASS[data[p - 1]] & WORD):
        return False
    return (word_class(data, p, stop) & VERSION) != 0


@njit(cache=True, nogil=True)
def left_edge(data, lo, i):
    """May a number start at i? Not inside a word, a sum, a decimal, a path or a dotted number; always at `lo`."""
    if i <= lo:
        return True
    byte = data[i - 1]
    if CLASS[byte] & WORD or byte == 43 or byte == 45 or byte == 64 or byte == 36:  # + - @ $
        return False
    if (byte == 46 or byte == 44 or byte == 47 or byte == 58 or byte == 61) and i - 2 >= lo:  # . , / : =
        return (CLASS[data[i - 2]] & DIGIT) == 0 and not (byte == 47 and data[i - 2] >= 46 and data[i - 2] != 58)
    return True


@njit(cache=True, nogil=True)
def right_edge(data, p, end):
    """May a number end before p? Not before a word character or `@`, nor before a mark that goes on with a digit."""
    if p >= end:
        return True
    byte = data[p]
    if CLASS[byte] & WORD or byte == 64:
        return False
    if (byte == 46 or byte == 44 or byte == 45 or byte == 47 or byte == 58 or byte == 43) and p + 1 < end:
        return (CLASS[data[p + 1]] & DIGIT) == 0
    return True
