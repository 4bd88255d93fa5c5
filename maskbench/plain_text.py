"""Text of others, made safe to print: one line, without codes that a terminal or browser obeys."""

from __future__ import annotations


def plain_text(text: str) -> str:
    """The text on one line, with a visible escape such as \\x1b for each unprintable character.

    These are control characters, marks that change the direction of text, characters of no width,
    and lone surrogates. Line breaks and tabs become spaces.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return " "
    return character.encode("unicode_escape").decode("ascii")
