"""Finds a key that a JSON object has twice. Decoders keep one of the two values and say nothing."""

from __future__ import annotations

import re

# A key with its value if that is a string; another string; or the start or end of an object.
# Nothing else matters, and the numbers between are skipped at the speed of a search.
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(
    rb'[^"{}]*(?:(%b)\s*:\s*(?:%b)?|%b|([{}])|\Z)' % (_STRING, _STRING, _STRING), re.DOTALL
)


def repeated_key(text: bytes | bytearray) -> tuple[str, int] | None:
    """The first key that an object of this valid JSON has twice, and its position in bytes."""
    objects: list[set[bytes]] = []
    for token in _TOKEN.finditer(text):
        if key := token[1]:
            if key in objects[-1]:
                return key.decode(errors="replace")[1:-1], token.start(1)
            objects[-1].add(key)
        elif token[2] == b"{":
            objects.append(set())
        elif token[2] == b"}":
            objects.pop()
    return None
