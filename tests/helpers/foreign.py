"""Text as a stranger may send it, and what it means that it does no harm."""

import re
import unicodedata

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear": "\x1b[2J\x1b[H\x1b[3J",
    "window title": "\x1b]0;owned\x07",
    "hyperlink": "\x1b]8;;http://e.example\x1b\\click\x1b]8;;\x1b\\",
    "carriage return": "refused\rdposcope: done",
    "bell and backspace": "\x07\x07ab\x08\x08",
    "C1": "\x9b31m\x9d0;t\x9c\x90q",
    "bidi": "a\u202egnp.exe\u2066b\u2069\u200f",
    "zero width": "pass\u200bword\u200c\u200d\ufeff\u2060\xad",
    "separators": "one\ntwo\u2028three\u2029four\x85five\x0bsix\x0cseven",
    "tags": "\U000e0041\U000e0042 and \u3164\u115f",
    "noncharacters": "\ufffe\uffff\U0001ffff\ufdd0",
    "surrogates": "caf\udce9 \ud800",
    "null and delete": "a\x00b\x7f",
    "rich": "[bold red]x[/] [link=http://e.example]y[/link] [/nope] :smile:",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)> &lt;b&gt;",
    "Markdown": "[a](javascript:x) ![i](http://e.example/i.png) **b** _c_ `d` | e | ~~f~~ <http://e.example>",
    "addresses": "https://e.example/x www.e.example",
    "headings": "x\n# owned\n\n- item\n\n| a |\n|---|\n```\ncode",
    "YAML": "x\"\n---\nlicense: other\ntags: [a]\n--- # '{}",
    "TeX": r"\input{/etc/passwd} $x^2$ #1 %",
    "format": "{0} {task.description} %s %(x)d",
    "long": "y" * 5000,
}
"""What it tries → the text."""
NAMES = {what: text for what, text in HOSTILE.items() if "/" not in text and "\0" not in text and len(text) < 200}
"""Those that can name a file."""


def unseen(char: str) -> bool:
    """Whether a character acts on a terminal, changes what others look like, or is not seen."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} or char in "\u115f\u3164\ufffe\uffff\ufdd0"


def assert_inert(text: str) -> None:
    """No line holds a character that acts or is not seen."""
    found = {f"U+{ord(char):04X}" for char in text if char != "\n" and unseen(char)}
    assert found == set(), f"{found} in {text[:300]!r}"


def drawn(text: str) -> str:
    """What a terminal got, without what rich draws with: colours, cursor, erased lines."""
    return re.sub(r"\x1b\[(\?25[lh]|[12]K|\d*A|[\d;]*m)|\r", "", text)
