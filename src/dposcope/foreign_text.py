"""Text that is not ours on its way to people: names, titles, tokens, paths, reasons of libraries.

Such text may come from a stranger's file. It may hold characters that act on a terminal, change the writing direction
or are not seen, and marks of Markdown, YAML or HTML. Here it becomes inert: `one_line` and `visible` for a terminal,
`markdown`, `code` and `front_matter` for a model card, `json_text` for JSON. Pages have `report/masked_text.py` on top
of this, and a terminal has `cli/console.py`.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

_NAMED: Final = {"\n": "↵", "\t": "⇥"}
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control, format, surrogate, line and paragraph separators."""
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\ufdd0-\ufdef\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Others that no font shows: fillers, what is never a character, and what is set aside for more of either kind."""
_BYTES: Final = range(0xDC80, 0xDD00)
"""How Python writes the bytes of a file name that is not UTF-8."""

_NOT_PLAIN: Final = re.compile(r"[^ -~]")

MOST: Final = 1500
"""Characters of one line; a longer one loses its middle."""


@lru_cache(4096)
def mark_of(char: str) -> str | None:
    """What stands for a character that acts or is not seen, such as `␛`, `U+202E` or, for a byte, `\\xe9`.

    None: the character is harmless.
    """
    code = ord(char)
    if 0x20 <= code < 0x7F:
        return None
    if char in _NAMED:
        return _NAMED[char]
    if code < 0x20:
        return chr(0x2400 + code)
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(char) in _UNSEEN or _BLANK.match(char) or code & 0xFFFE == 0xFFFE:
        return f"U+{code:04X}"
    return None


def visible(text: str) -> str:
    """The text with a mark for every character that acts or is not seen, line breaks included."""
    return _NOT_PLAIN.sub(lambda found: mark_of(found[0]) or found[0], text)


def blanked(text: str) -> str:
    """The text with � for every character that acts or is not seen: for tables, whose cells keep their width."""
    return _NOT_PLAIN.sub(lambda found: "\ufffd" if mark_of(found[0]) else found[0], text)


def one_line(text: str, *, most: int | None = MOST) -> str:
    """The text on one line: spaces and line breaks become one space, the rest is as in `visible`.

    Args:
        text: any.
        most: characters of the line; a longer one loses its middle, since a message ends with what to do. None: no
            limit.
    """
    line = visible(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[: most - most // 3 - 3]} … {line[-(most // 3) :]}"


def markdown(text: str, *, most: int | None = MOST) -> str:
    """The text within a line of Markdown, where it shows as it is: no emphasis, link, address, image, cell or HTML.

    Args:
        text: any.
        most: see `one_line`.
    """
    # Within a word an underscore is no mark.
    escaped = re.sub(r"([\\|`*~$<>\[\]&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", one_line(text, most=most))
    # Readers make links of bare addresses.
    return re.sub(r"(?i)(?<=www)\.|:(?=//)", lambda found: f"\\{found[0]}", escaped)


def code(text: str) -> str:
    """The text as a code span of Markdown."""
    line = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"


def front_matter(fields: Mapping[str, Any]) -> list[str]:
    """The lines of YAML at the head of a model card.

    Args:
        fields: our own keys, which are written as they are → a text, a list of texts, or anything that is JSON, which
            YAML reads too.
    """

    def scalar(text: str) -> str:
        escaped = one_line(text).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    def written(value: Any) -> str:
        if isinstance(value, str):
            return scalar(value)
        texts = all(isinstance(one, str) for one in value)
        return f"[{', '.join(map(scalar, value))}]" if texts else json_text(value, indent=None)

    return ["---", *(f"{key}: {written(value)}" for key, value in fields.items()), "---"]


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """`value` as JSON, in which every character that acts or is not seen is escaped, halves of surrogates included.

    Raises:
        ValueError: it holds NaN, which is not JSON.
    """
    # A line break outside strings is the layout's own; inside, it is escaped already.
    return re.sub(
        r"[^ -~\n]",
        lambda found: json_escape(found[0]) if mark_of(found[0]) else found[0],
        json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False),
    )


def json_escape(char: str) -> str:
    """A character as JSON writes it in ASCII; beyond the first 65,536 it is a pair of surrogates."""
    return "".join(f"\\u{unit:04x}" for unit in _units(ord(char)))


def _units(code: int) -> Sequence[int]:
    return (code,) if code < 0x10000 else (0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF))
