"""Names as text in a Plotly figure, which reads some HTML and some TeX."""

from __future__ import annotations

import html
import textwrap
import unicodedata

_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # would reach beyond the name that they stand in
_FIRST_STRONG, _POP = "\u2068", "\u2069"


def as_text(name: str, most: int | None = None) -> str:
    """A name of a class or a study as text: no markup, no formula, and no effect on what stands beside it.

    Args:
        name: whatever a user called it.
        most: cut to that many characters, an ellipsis included; wide ones (Chinese, emoji) count twice.

    Returns:
        HTML for Plotly: ``&``, ``<``, ``>`` and ``$`` escaped, control characters as spaces, isolated so that a name
        written from right to left leaves the rest of the line where it is (Unicode's FSI and PDI).
    """
    return _escaped(cut(plain(name), most))


def as_lines(name: str, width: int = 48) -> str:
    """A whole name for a tip, on as many lines as it takes.

    Args:
        name: whatever a user called it.
        width: of a line, in characters.

    Returns:
        HTML for Plotly, each line as ``as_text`` makes it.
    """
    return "<br>".join(_escaped(line) for line in textwrap.wrap(plain(name), width)) or _escaped("")


def plain(name: str) -> str:
    """The name on one line, without characters that are not text."""
    kept = (" " if _is_control(c) else c for c in name)
    return " ".join("".join(kept).split())


def cut(text: str, most: int | None) -> str:
    """The text, or its beginning and an ellipsis where it is wider than ``most`` characters."""
    if most is None or columns(text) <= most:
        return text
    end, room = 0, most - 1
    for c in text:
        room -= _columns(c)
        if room < 0:
            break
        end += 1
    return text[:end].rstrip() + "…"


def columns(text: str) -> int:
    """Width in characters, wide ones counted twice and accents not at all."""
    return sum(_columns(c) for c in text)


def _columns(c: str) -> int:
    if unicodedata.combining(c):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def _is_control(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or ord(c) in _DIRECTIONS


def _escaped(text: str) -> str:
    return _FIRST_STRONG + html.escape(text, quote=False).replace("$", "&#36;") + _POP
