"""Documents that break filters: what every stage over text has to survive, by name.

A stage passes when it gives a row for each of them, no NaN or infinity in any score (an undefined statistic is
null), and the same result as for the document alone. `big` is apart: 100 MB, for the stages that run over whole texts.
"""

from __future__ import annotations

import math

import pyarrow as pa

HOSTILE = {
    "empty": "",
    "space": " \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u3000",
    "newlines": "\n" * 5000,
    "one_letter": "a",
    "no_spaces": "abcdefghij" * 5000,
    "punctuation": "?!.,;:-–—…\"'«»()[]{}#*•/\\|@&%" * 40,
    "dots": "." * 10_000,
    "digits": "0123456789 " * 500,
    "right_to_left": "هذا نص عربي قصير للاختبار. שלום עולם, זה טקסט בעברית! \u202e\u200f" * 20,
    "combining": "é" * 300 + "Z" + "\u0335\u0322\u0316" * 300 + " क्षि ก็่",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪🇫🇷 " * 60,
    "cjk": "今日は天気がいいですね。明日も晴れるでしょう！这是一个没有空格的中文句子。" * 40,
    "korean_thai": "한국어 문장입니다. 띄어쓰기가 있습니다. ภาษาไทยไม่มีช่องว่างระหว่างคำ " * 30,
    "full_width": "ＡＢＣ１２３ ｆｕｌｌ　ｗｉｄｔｈ ①②③ ½ Ⅷ ٣٤٥ ²³ ",
    "case": "ßẞİıŉǅǆΣς ﬁﬂ ᾳ ÿŸ " * 20,
    "controls": "a\x01b\x1bc\x7fd\u200be\ufefff\ufffdg\u2060h",
    "nul": "before\x00after and more words",
    "private_use": "\ue000\uf8ff\U000f0000\U0010ffff \ufdd0\uffff",
    "one_line": "The end of the line is never there and so it goes on " * 2000,
    "same_line": "The same line, again and again.\n" * 3000,
    "curly": "{" * 100 + " lorem ipsum javascript terms of use cookie policy " + "}" * 100,
    "brackets": "(((((" * 2000 + ")" * 5,
    "markup": "<html><body><p>text</p><script>alert(1)</script>&amp;&lt;" * 50,
    "urls": "https://example.com/a?b=c http://user:pw@[::1]:80/ ftp://x www.a.b mailto:a@b.c " * 50,
    "regex_bomb": "a@" * 3000 + "!" + "1.1.1.1." * 2000 + "+1-(" * 2000,
    "long_word": "x" * 100_000 + " tail",
    "four_bytes": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈𒀀 " * 200,
}


def hostile_texts() -> pa.Array:
    """All of them and a null, as one Arrow column."""
    return pa.array([*HOSTILE.values(), None], pa.string())


def big(size: int = 100_000_000) -> str:
    """A document of `size` bytes with words, lines and sentences."""
    line = "It was the best of times, it was the worst of times, line {}.\n"
    block = "".join(line.format(i) for i in range(20_000))
    return (block * (size // len(block) + 1))[:size]


def check_columns(columns: dict[str, pa.Array], rows: int) -> None:
    """One value for each row, and no NaN or infinity among the floats."""
    for name, array in columns.items():
        assert len(array) == rows, f"{name}: expected {rows} values, found {len(array)}"
        if pa.types.is_floating(array.type):
            bad = [i for i, value in enumerate(array.to_pylist()) if value is not None and not math.isfinite(value)]
            assert not bad, f"{name}: not finite for {[[*HOSTILE, None][i] if i < rows else i for i in bad]}"
