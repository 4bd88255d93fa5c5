"""The integer parameters of masks: their limits, and the check of them.

A mask declares the lower bound of a parameter: `left: int = field(metadata=POSITIVE)` or
`field(metadata=NON_NEGATIVE)`. Python and NumPy integers are accepted and stored as int. If every
value from `seq_len` on means the same, as for the width of a window, it declares `DISTANCE` or
`EXTENT` instead: larger values are then stored as `seq_len`.
"""

from __future__ import annotations

from dataclasses import fields
from numbers import Integral
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NON_NEGATIVE = MappingProxyType({"minimum": 0})
"""Field metadata for an integer >= 0: `left: int = field(metadata=NON_NEGATIVE)`."""
POSITIVE = MappingProxyType({"minimum": 1})
"""Field metadata for an integer >= 1: `width: int = field(metadata=POSITIVE)`."""
DISTANCE = MappingProxyType({"minimum": 0, "up_to_seq_len": True})
"""Field metadata for an integer >= 0 that means the same from `seq_len` on: it is stored as at most
`seq_len`, so that 32-bit integers on the device do not overflow."""
EXTENT = MappingProxyType({"minimum": 1, "up_to_seq_len": True})
"""The same for an integer >= 1."""
MAX_PARAMETER = 2**30  # the sum of two such integers has 32 bits


def to_int(value: object) -> int | None:
    """Convert a Python or NumPy integer to int. Return None for anything else, bool included."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return None


def check_parameters(mask: DataclassInstance, seq_len: Any) -> None:
    """Store the declared parameters of a frozen dataclass as int, within their limits.

    Raises
    ------
    ValueError
        If one is not an integer, is below its lower bound, or is above 2**30.
    """
    for parameter in fields(mask):
        minimum = parameter.metadata.get("minimum")
        if minimum is None:
            continue
        name, value = parameter.name, getattr(mask, parameter.name)
        number = to_int(value)
        if number is None or number < minimum:
            raise ValueError(f"{name} is {value}, must be a whole number, {minimum} or more")
        if parameter.metadata.get("up_to_seq_len"):
            number = min(number, seq_len)
        if number > MAX_PARAMETER:
            raise ValueError(f"{name} is {number}, must be at most {MAX_PARAMETER}")
        object.__setattr__(mask, name, number)
