"""Keys and tokens: known prefixes, JSON web tokens, PEM private keys, and assignments of a random-looking value.

The prefixes and lengths are facts that the issuers publish and the public rule lists keep (gitleaks, detect-secrets,
trufflehog). The scan meets a token at the one byte of its prefix that is rarest in text, the anchor: so a page without
such bytes costs nothing. A body must look random (3 bits of entropy a character; 3.5 for an assignment, as gitleaks
has it), which leaves `sk_live_xxxxxxxxxxxxxxxx`, and one that ends in EXAMPLE stays, as in the issuers' documents.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import literal
from stages.kernels import pii_context as near

# rule, prefixes, anchor byte, body class (a alphanumeric, t with - and _, d with dots too, u capitals and digits,
# x hexadecimal), least and most characters
_PREFIXES = (
    ("aws_key_id", "AKIA", "K", "u", 16, 16), ("aws_key_id", "ASIA ABIA ACCA", "I C", "u", 16, 16),
    ("github_token", "ghp_ gho_ ghu_ ghs_ ghr_", "_", "a", 36, 255), ("github_token", "github_pat_", "_", "t", 36, 255),
    ("gitlab_token", "glpat- gldt- glrt- glptt- glcbt- glsoat-", "-", "t", 20, 64),
    ("slack_token", "xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs- xapp-", "-", "t", 20, 255),
    ("stripe_key", "sk_live_ sk_test_ rk_live_ rk_test_ whsec_", "_", "a", 16, 255),
    ("google_api_key", "AIza", "z", "t", 35, 35), ("google_oauth_secret", "GOCSPX-", "-", "t", 28, 28),
    ("openai_key", "sk-proj- sk-svcacct- sk-admin-", "-", "t", 20, 255), ("openai_key", "sk-", "-", "a", 48, 48),
    ("anthropic_key", "sk-ant-", "-", "t", 80, 120), ("huggingface_token", "hf_", "_", "a", 34, 37),
    ("npm_token", "npm_", "_", "a", 36, 36), ("pypi_token", "pypi-AgEIcHlwaS5vcmc", "-", "t", 50, 255),
    ("digitalocean_token", "dop_v1_ doo_v1_ dor_v1_", "_", "x", 64, 64), ("sendgrid_key", "SG.", "G", "d", 66, 66),
    ("mailgun_key", "key-", "-", "x", 32, 32), ("shopify_token", "shpat_ shpss_ shpca_ shppa_", "_", "x", 32, 32),
    ("square_token", "sq0atp-", "-", "t", 22, 22), ("square_token", "sq0csp-", "-", "t", 43, 43),
    ("grafana_token", "glsa_", "_", "t", 41, 41), ("linear_key", "lin_api_", "_", "a", 40, 40),
    ("postman_key", "PMAK-", "-", "t", 59, 59), ("docker_token", "dckr_pat_", "_", "t", 27, 27),
    ("age_key", "AGE-SECRET-KEY-1", "-", "u", 58, 58), ("groq_key", "gsk_", "_", "a", 52, 52),
    ("rubygems_key", "rubygems_", "_", "x", 48, 48), ("pulumi_token", "pul-", "-", "x", 40, 40),
    ("replicate_token", "r8_", "_", "a", 37, 40), ("figma_token", "figd_", "_", "t", 40, 60),
    ("notion_token", "ntn_", "_", "a", 46, 46), ("perplexity_key", "pplx-", "-", "a", 48, 56),
    ("nvidia_key", "nvapi-", "-", "t", 60, 70), ("xai_key", "xai-", "-", "a", 80, 80),
)  # fmt: skip
NAMES = (*dict.fromkeys(row[0] for row in _PREFIXES), "jwt", "private_key", "assigned_secret")
JWT, PRIVATE_KEY, ASSIGNED = len(NAMES) - 3, len(NAMES) - 2, len(NAMES) - 1

_ENTRIES = sorted(
    (ord(next(byte for byte in anchors.split() if byte in prefix)), prefix, NAMES.index(rule), body, least, most)
    for rule, prefixes, anchors, body, least, most in _PREFIXES
    for prefix in prefixes.split()
)
ANCHORS = bytes(dict.fromkeys(entry[0] for entry in _ENTRIES))
_FIRST = np.zeros(257, np.int64)  # entries of anchor byte b: _FIRST[b]:_FIRST[b + 1]
for _entry in _ENTRIES:
    _FIRST[_entry[0] + 1] += 1
_FIRST = np.cumsum(_FIRST)
_BYTES = np.frombuffer("".join(entry[1] for entry in _ENTRIES).encode(), np.uint8)
_STARTS = np.cumsum([0, *(len(entry[1]) for entry in _ENTRIES)]).astype(np.int64)
_AT = np.array([entry[1].index(chr(entry[0])) for entry in _ENTRIES], np.int64)
_RULE = np.array([entry[2] for entry in _ENTRIES], np.int64)
_LEAST, _MOST = (np.array([entry[k] for entry in _ENTRIES], np.int64) for k in (4, 5))
_BODY = np.array(["atdux".index(entry[3]) for entry in _ENTRIES], np.int64)

_ALLOWED = np.zeros((6, 256), np.bool_)
for _k, _set in enumerate(("", "-_", "-_.", "", "", "-_.+/=~")):
    for _byte in range(128):
        _char = chr(_byte)
        _ALLOWED[_k, _byte] = {3: _char.isupper() or _char.isdigit(), 4: _char in "0123456789abcdefABCDEF"}.get(
            _k, _char.isalnum() or _char in _set
        )
_VALUE = 5
_EXAMPLE = np.frombuffer(b"EXAMPLE", np.uint8)
_BEGIN, _END = np.frombuffer(b"-----BEGIN ", np.uint8), np.frombuffer(b"-----END ", np.uint8)
_PRIVATE = np.frombuffer(b"PRIVATE KEY", np.uint8)
_MAX_PEM = 16_384
_NAMED = tuple(b"secret token password passwd pwd passphrase credential credentials".split())
_KEYED = tuple(b"api access secret private auth client encryption signing master account".split())
_WORDS = tuple(np.frombuffer(word, np.uint8) for word in (*_NAMED, b"key", *_KEYED, b"public"))
_TEXT = np.concatenate(_WORDS)
_BOUNDS = np.cumsum([0, *(len(word) for word in _WORDS)]).astype(np.int64)
_KEY = len(_NAMED)


@njit(cache=True, nogil=True)
def entropy(data, start, end, counts):
    """Shannon entropy of the bytes of a span, in bits a byte; `counts` is scratch, int64[256], zero and left zero."""
    for p in range(start, end):
        counts[data[p]] += 1
    total, bits = end - start, 0.0
    for p in range(start, end):
        if counts[data[p]]:
            share = counts[data[p]] / total
            bits -= share * np.log2(share)
            counts[data[p]] = 0
    return bits


@njit(cache=True, nogil=True)
def prefixed(data, lo, i, end, counts):
    """`(start, end, rule)` of the token whose prefix has its anchor at i, or `(i, i, -1)`."""
    byte = data[i]
    for entry in range(_FIRST[byte], _FIRST[byte + 1]):
        start, width = i - _AT[entry], _STARTS[entry + 1] - _STARTS[entry]
        if start < lo or not literal.at(data, start, end, _BYTES[_STARTS[entry] : _STARTS[entry + 1]]):
            continue
        if start > lo and near.CLASS[data[start - 1]] & near.WORD:
            continue
        body = start + width
        p = body
        while p < end and p - body <= _MOST[entry] and _ALLOWED[_BODY[entry], data[p]]:
            p += 1
        length = p - body
        if length < _LEAST[entry] or length > _MOST[entry] or (p < end and near.CLASS[data[p]] & near.WORD):
            continue
        if entropy(data, body, p, counts) < 3.0 or literal.at(data, p - len(_EXAMPLE), p, _EXAMPLE):
            continue
        return start, p, _RULE[entry]
    return i, i, np.int64(-1)


@njit(cache=True, nogil=True)
def jwt(data, lo, i, end):
    """`(start, end)` of a JSON web token whose "eyJ" has its J at i (RFC 7519: three base64url parts), or `(i, i)`."""
    start = i - 2
    if start < lo or data[start] != 101 or data[start + 1] != 121:
        return i, i
    if start > lo and (near.CLASS[data[start - 1]] & near.TOKEN or data[start - 1] == 46 or data[start - 1] == 95):
        return i, i
    p, parts = start, 0
    while parts < 3:
        part = p
        while p < end and near.CLASS[data[p]] & near.TOKEN:
            p += 1
        if p - part < 10:
            return i, i
        parts += 1
        if parts < 3:
            if p + 1 >= end or data[p] != 46 or (parts == 1 and data[p + 1] != 101):
                return i, i
            p += 1
    return start, p


@njit(cache=True, nogil=True)
def private_key(data, i, end):
    """End of the PEM block of a private key that begins at i (RFC 7468), its END line included; or i."""
    if not literal.at(data, i, end, _BEGIN):
        return i
    p, named = i + len(_BEGIN), False
    while p < end and p < i + 64 and data[p] != 45:
        named |= literal.at(data, p, end, _PRIVATE)
        p += 1
    if not named or p + 5 > end or data[p] != 45:
        return i
    p += 5
    stop = min(end, i + _MAX_PEM)
    for q in range(p, stop):
        if data[q] == 60:
            break
        if data[q] == 45 and literal.at(data, q, end, _END):
            q += len(_END)
            while q < stop and data[q] != 45 and data[q] != 10 and data[q] != 60:
                q += 1
            while q < stop and data[q] == 45:
                q += 1
            return q
    body = p  # cut off: what can be of the key
    while p < stop and (_ALLOWED[_VALUE, data[p]] or data[p] == 10 or data[p] == 13):
        p += 1
    return p if p > body + 16 else i


@njit(cache=True, nogil=True)
def _has(data, start, end, word, at_end):
    """Does the name contain the word (or end in it), letters folded?"""
    width = _BOUNDS[word + 1] - _BOUNDS[word]
    first = end - width if at_end else start
    for p in range(max(first, start), end - width + 1):
        k = 0
        while k < width and data[p + k] | 32 == _TEXT[_BOUNDS[word] + k]:
            k += 1
        if k == width:
            return True
    return False


@njit(cache=True, nogil=True)
def assigned(data, lo, i, end, counts):
    """`(start, end)` of the value in `api_key = "..."` whose = or : is at i, or `(i, i)`.

    The name ends in secret, token, password and the like, or in key after a word such as api; the value has 16 to 200
    characters, two digits, a letter, and 3.5 bits of entropy.
    """
    p = i
    while p > lo and p > i - 4 and (data[p - 1] == 32 or data[p - 1] == 34 or data[p - 1] == 39 or data[p - 1] == 58
                                    or data[p - 1] == 96 or data[p - 1] == 93):  # fmt: skip
        p -= 1
    stop = p
    while p > lo and p > stop - 40 and (near.CLASS[data[p - 1]] & near.TOKEN or near.CLASS[data[p - 1]] & near.WORD
                                        or data[p - 1] == 46):  # fmt: skip
        p -= 1
    if stop - p < 3:
        return i, i
    named = False
    for word in range(_KEY):
        named |= _has(data, p, stop, word, True)
    if not named and _has(data, p, stop, _KEY, True):
        for word in range(_KEY + 1, len(_BOUNDS) - 2):
            named |= _has(data, p, stop, word, False)
    if not named or _has(data, p, stop, len(_BOUNDS) - 2, False):
        return i, i
    p = i + 1
    while p < end and p < i + 5 and (data[p] == 32 or data[p] == 34 or data[p] == 39 or data[p] == 61 or data[p] == 62
                                     or data[p] == 96):  # fmt: skip
        p += 1
    start, digits, letters = p, 0, 0
    while p < end and p - start <= 200 and _ALLOWED[_VALUE, data[p]]:
        digits += (near.CLASS[data[p]] & near.DIGIT) != 0
        letters += (near.CLASS[data[p]] & near.LETTER) != 0
        p += 1
    while p > start and data[p - 1] == 46:
        p -= 1
    if p - start < 16 or p - start > 200 or digits < 2 or letters < 1 or (p < end and data[p] == 40):
        return i, i
    if entropy(data, start, p, counts) < 3.5 or literal.at(data, p - len(_EXAMPLE), p, _EXAMPLE):
        return i, i
    return start, p
