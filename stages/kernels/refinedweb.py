"""The line corrections of RefinedWeb as one compiled pass: reads text buffers, writes the corrected text into new ones.

The steps of a document run one after the other over its table of lines, as DCLM's modifiers do: each sees what the
one before left, and the text as a whole is stripped between them, which moves the ends of its first and last line.
Characters are looked at once; only lines of at most ten words are searched for phrases.
Cost: about 9 ns for each byte of text on one core, and 28 bytes of memory for each line of the longest document.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import char_bits, chars, phrases

MAX_UPPER, MAX_NUMERIC, MIN_WORDS, MAX_WORDS = 0.5, 0.999999, 2, 10
_COUNTED = phrases.phrases([b"likes", b"shares", b"comments", b"retweets", b"reposts", b"quotes", b"bookmarks",
                            b"upvotes", b"downvotes", b"downloads", b"views", b"followers"])  # fmt: skip
_BANNED = phrases.phrases([b"items in cart", b"read more", b"sign-in"])
_ANYWHERE, _AT_END, _AT_START = range(3)

# columns of the line table
START, END, CHARS, DIGITS, WORDS, TOKENS, POOLED = range(7)
# columns of `counts`
LINES_REMOVED, CHARS_REMOVED, TOKENS_BEFORE, TOKENS_AFTER = range(4)


@njit(cache=True, nogil=True)
def _measure(data, start, end, pages, classes):
    """`(characters, upper case, digits, words, tokens)` of a line.

    Words are those of `str.split()`. Tokens are fastText's, split at ASCII white space and NUL, that start with an
    alphanumeric character: what DCLM counts.
    """
    size, upper, digits, words, tokens = 0, 0, 0, 0, 0
    in_word, in_token = False, False
    i = start
    while i < end:
        byte = data[i]
        if byte < 0x80:
            here, i = classes[byte], i + 1
        else:
            cp, i = chars.decode(data, i, end)
            here = chars.bits_of(cp, pages, classes)
        size += 1
        upper += (here & char_bits.UPPER) != 0
        digits += (here & char_bits.DIGIT) != 0
        word = (here & chars.NONSPACE) != 0
        words += word and not in_word
        in_word = word
        token = byte > 32 or (byte != 32 and byte != 0 and (byte < 9 or byte > 13))
        tokens += token and not in_token and (here & char_bits.ALNUM) != 0
        in_token = token
    return size, upper, digits, words, tokens


@njit(cache=True, nogil=True)
def is_counter(data, i, end, pages, classes):
    r"""Does the lower-cased span match `^\W*\d(?:,|\.|\d)*(?:k|m|b)?\s+(?:likes|shares|...)\W*$`?"""
    cp = np.int32(0)
    after = i
    while i < end:  # \W*
        cp, after = chars.decode(data, i, end)
        if chars.bits_of(cp, pages, classes) & chars.WORD:
            break
        i = after
    if i >= end or not chars.bits_of(cp, pages, classes) & chars.DECIMAL:
        return False
    i = after
    while i < end:
        cp, after = chars.decode(data, i, end)
        if not (cp == 44 or cp == 46 or chars.bits_of(cp, pages, classes) & chars.DECIMAL):
            break
        i = after
    if i < end:
        byte, after = phrases.folded(data, i, end, phrases.LOWER)
        if byte == 107 or byte == 109 or byte == 98:
            i = after
    space = i
    while i < end:
        cp, after = chars.decode(data, i, end)
        if chars.bits_of(cp, pages, classes) & chars.NONSPACE:
            break
        i = after
    if i == space:
        return False
    for k in range(len(_COUNTED.bounds) - 1):
        rest = phrases.match(data, i, end, _COUNTED, k, phrases.LOWER)
        if rest >= 0:
            while rest < end:
                cp, rest = chars.decode(data, rest, end)
                if chars.bits_of(cp, pages, classes) & chars.WORD:
                    return False
            return True
    return False


@njit(cache=True, nogil=True)
def _before(data, start, i):
    """Start of the character that ends at i."""
    i -= 1
    while i > start and (data[i] & 0xC0) == 0x80:
        i -= 1
    return i


@njit(cache=True, nogil=True)
def _space_at(data, i, end, pages, classes):
    """Position after one white-space character at i, or i."""
    if i < end:
        cp, after = chars.decode(data, i, end)
        if not chars.bits_of(cp, pages, classes) & chars.NONSPACE:
            return after
    return i


@njit(cache=True, nogil=True)
def _remove_anywhere(data, start, end, pages, classes, pool, source):
    r"""Copy a line without `\s?items in cart` to `pool`, with the place of each byte in `source`; returns its size."""
    size = 0
    i = start
    while i < end:
        if (data[i] & 0xC0) != 0x80:
            here = _space_at(data, i, end, pages, classes)
            after = phrases.match(data, here, end, _BANNED, _ANYWHERE, phrases.IGNORECASE)
            if after >= 0:
                i = after
                continue
        pool[size], source[size] = data[i], i
        size += 1
        i += 1
    return size


@njit(cache=True, nogil=True)
def _cut_end(data, start, end, pages, classes):
    r"""New end of a line without `\s?read more...$`, where "..." are any three characters."""
    i = end
    for _ in range(3):
        if i <= start:
            return end
        i = _before(data, start, i)
    for _ in range(9):
        if i <= start:
            return end
        i = _before(data, start, i)
    after = phrases.match(data, i, end, _BANNED, _AT_END, phrases.IGNORECASE)
    if after < 0 or after >= end:
        return end
    if i > start:
        last = _before(data, start, i)
        if _space_at(data, last, i, pages, classes) > last:
            i = last
    return i


@njit(cache=True, nogil=True)
def _cut_start(data, start, end, pages, classes):
    r"""New start of a line without `^sign-in\s?`."""
    after = phrases.match(data, start, end, _BANNED, _AT_START, phrases.IGNORECASE)
    return start if after < 0 else _space_at(data, after, end, pages, classes)


@njit(cache=True, nogil=True)
def _strip_text(data, pool, table, alive, first, last, pages, classes):
    """Strip the text that the live lines `first..last` make; returns the new `(first, last)`."""
    while first <= last:
        if alive[first]:
            start, end = table[first, START], table[first, END]
            if table[first, POOLED]:
                head, _ = chars.strip(pool, start, end, pages, classes)
                table[first, CHARS] -= chars.length(pool, start, head)
            else:
                head, _ = chars.strip(data, start, end, pages, classes)
                table[first, CHARS] -= chars.length(data, start, head)
            table[first, START] = head
            if head > start:
                table[first, TOKENS] = -1
            if head < end:
                break
            alive[first] = False
        first += 1
    while last >= first:
        if alive[last]:
            start, end = table[last, START], table[last, END]
            if table[last, POOLED]:
                _, tail = chars.strip(pool, start, end, pages, classes)
                table[last, CHARS] -= chars.length(pool, tail, end)
            else:
                _, tail = chars.strip(data, start, end, pages, classes)
                table[last, CHARS] -= chars.length(data, tail, end)
            table[last, END] = tail
            if start < tail:
                break
            alive[last] = False
        last -= 1
    return first, last


@njit(cache=True, nogil=True)
def _edit_phrases(data, table, alive, hit, first, last, pages, classes, pool, source):
    """The three phrase steps over lines with a hit; returns the last range of live lines."""
    used = np.int64(0)
    for step in range(3):
        for k in range(first, last + 1):
            if not alive[k] or not hit[k]:
                continue
            start, end = table[k, START], table[k, END]
            if step == _ANYWHERE:
                size = _remove_anywhere(data, start, end, pages, classes, pool[used:], source[used:])
                start, end = used, used + size
                used = end
                table[k, POOLED] = 1
            elif step == _AT_END:
                end = _cut_end(pool, start, end, pages, classes)
            else:
                start = _cut_start(pool, start, end, pages, classes)
            table[k, START], table[k, END] = start, end
            table[k, TOKENS] = -1
            head, tail = chars.strip(pool, start, end, pages, classes)
            alive[k] = head < tail
        first, last = _strip_text(data, pool, table, alive, first, last, pages, classes)
    return first, last


@njit(cache=True, nogil=True)
def correct(offsets, data, line_docs, starts, ends, pages, classes, out_offsets, out, counts, cut_offsets, cut_starts,
            cut_ends):  # fmt: skip
    """Write the corrected text of each document to `out`; returns the bytes written.

    `counts` is int32[4, docs]. Cuts are the removed non-blank lines, and the phrases taken out of kept lines, in bytes
    from the start of the document.
    """
    longest = 1
    for doc in range(len(offsets) - 1):
        longest = max(longest, line_docs[doc + 1] - line_docs[doc])
    table = np.zeros((longest, 7), np.int32)
    alive, hit = np.zeros(longest, np.bool_), np.zeros(longest, np.bool_)
    none = np.empty(0, np.uint8)
    o, cut = np.int64(0), np.int64(0)
    for doc in range(len(offsets) - 1):
        origin, base = np.int64(offsets[doc]), line_docs[doc]
        lines = line_docs[doc + 1] - base
        before, characters = 0, lines - 1
        for k in range(lines):
            start, end = np.int64(starts[base + k]), np.int64(ends[base + k])
            size, upper, digits, words, tokens = _measure(data, start, end, pages, classes)
            table[k, START], table[k, END], table[k, CHARS], table[k, DIGITS] = start, end, size, digits
            table[k, WORDS], table[k, TOKENS], table[k, POOLED] = words, tokens, 0
            alive[k], hit[k] = size == 0 or upper / size <= MAX_UPPER, False
            before += tokens
            characters += size
        first, last = _strip_text(data, none, table, alive, 0, lines - 1, pages, classes)
        for k in range(first, last + 1):
            size = table[k, CHARS]
            alive[k] = alive[k] and (size == 0 or table[k, DIGITS] / size <= MAX_NUMERIC)
        first, last = _strip_text(data, none, table, alive, first, last, pages, classes)
        for k in range(first, last + 1):
            if alive[k] and table[k, DIGITS]:
                alive[k] = not is_counter(data, table[k, START], table[k, END], pages, classes)
        first, last = _strip_text(data, none, table, alive, first, last, pages, classes)
        room = 0
        for k in range(first, last + 1):
            start, end = table[k, START], table[k, END]
            alive[k] = alive[k] and (start == end or table[k, WORDS] >= MIN_WORDS)
            if alive[k] and start < end and table[k, WORDS] <= MAX_WORDS:
                hit[k] = phrases.find(data, start, end, _BANNED, phrases.IGNORECASE) != 0
                room += (end - start) * hit[k]
        pool, source = np.empty(room, np.uint8), np.empty(room, np.int64)
        if room:  # the text is stripped before its first phrase is sought, so edges of hit lines hold no lone space
            first, last = _edit_phrases(data, table, alive, hit, first, last, pages, classes, pool, source)
        first, last = _strip_text(data, pool, table, alive, first, last, pages, classes)
        after, left = 0, 0
        for k in range(lines):
            start, end = table[k, START], table[k, END]
            live = first <= k <= last and alive[k]
            if live:
                if k > first:
                    out[o] = 10
                    o += 1
                    left += 1
                line_o = o
                for i in range(start, end):
                    out[o] = pool[i] if table[k, POOLED] else data[i]
                    o += 1
                left += chars.length(out, line_o, o)
                if table[k, TOKENS] < 0:
                    _, _, _, _, tokens = _measure(out, line_o, o, pages, classes)
                    table[k, TOKENS] = tokens
                after += table[k, TOKENS]
            if live and not table[k, POOLED]:
                continue
            head, tail = chars.strip(data, np.int64(starts[base + k]), np.int64(ends[base + k]), pages, classes)
            if live:
                for i in range(start, end):
                    if source[i] > head:
                        cut_starts[cut], cut_ends[cut] = head - origin, source[i] - origin
                        cut += 1
                    head = max(head, source[i] + 1)
            elif head < tail:
                counts[LINES_REMOVED, doc] += 1
            if head < tail:
                cut_starts[cut], cut_ends[cut] = head - origin, tail - origin
                cut += 1
        out_offsets[doc + 1], cut_offsets[doc + 1] = o, cut
        counts[CHARS_REMOVED, doc] = characters - left
        counts[TOKENS_BEFORE, doc], counts[TOKENS_AFTER, doc] = before, after
    return o
