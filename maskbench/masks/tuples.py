"""Tuples of whole numbers as parameters of masks: their check."""

from __future__ import annotations

from collections.abc import Iterable

from maskbench.masks.parameters import MAX_PARAMETER, to_int


def whole_numbers(name: str, given: object, minimum: int) -> tuple[int, ...]:
    """Return `given` as a tuple of int. Python and NumPy integers are accepted.

    Raises
    ------
    ValueError
        If `given` is not a sequence of whole numbers, if one is below `minimum`, or if one is above
        2**30.
    """
    if not isinstance(given, Iterable):
        raise ValueError(f"{name} is {given}, must be a tuple of whole numbers")
    values = tuple(given)
    numbers = [number for value in values if (number := to_int(value)) is not None]
    if len(numbers) < len(values) or any(number < minimum for number in numbers):
        raise ValueError(f"{name} are {values}, each must be a whole number, {minimum} or more")
    if any(number > MAX_PARAMETER for number in numbers):
        raise ValueError(f"{name} are {values}, each must be at most {MAX_PARAMETER}")
    return tuple(numbers)
