"""Whether a mask_mod works on CuTe's scalars, found without CuTe and without a GPU.

CuTe compiles Python that computes with its scalars. They have Python's operators. They have no
methods such as `abs`, and neither tensors nor torch's functions take them. So the mask_mod is
called with `Scalar`s, which record their operators and raise TypeError for everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from maskbench.masks.base import MaskMod

MAX_OPERATIONS = 100  # each is compiled, and 300 comparisons took over a minute

Operator: TypeAlias = "Callable[[Scalar, object], Scalar]"


def _operator(symbol: str) -> Operator:
    return lambda self, other: self.compute(self, symbol, other)


def _reflected(symbol: str) -> Operator:
    return lambda self, other: self.compute(other, symbol, self)


@dataclass
class Trace:
    """The operations of a mask_mod in order, such as "t1=q-k"."""

    operations: list[str] = field(default_factory=list)

    def add(self, expression: str, is_bool: bool, non_negative: bool) -> Scalar:
        name = f"t{len(self.operations)}"
        self.operations.append(f"{name}={expression}")
        return Scalar(self, name, is_bool, non_negative)


@dataclass(eq=False)
class Scalar:
    """An int32 or a bool in a kernel, which has the operators of CuTe's scalars.

    `non_negative` is True if the value is known to be 0 or more.
    """

    trace: Trace
    name: str
    is_bool: bool = False
    non_negative: bool = True

    __hash__ = None  # type: ignore[assignment]  # == gives a Scalar

    __add__, __sub__, __mul__ = _operator("+"), _operator("-"), _operator("*")
    __radd__, __rsub__, __rmul__ = _reflected("+"), _reflected("-"), _reflected("*")
    __floordiv__, __mod__, __rshift__ = _operator("//"), _operator("%"), _operator(">>")
    __and__, __or__ = _operator("&"), _operator("|")
    __lt__, __le__, __gt__, __ge__ = map(_operator, ("<", "<=", ">", ">="))
    __eq__, __ne__ = _operator("=="), _operator("!=")  # type: ignore[assignment]  # no bool

    def __invert__(self) -> Scalar:
        return self.trace.add(f"~{self.name}", self.is_bool, non_negative=False)

    def __bool__(self) -> bool:
        raise TypeError("the value is not known when the kernel is compiled")

    def compute(self, left: object, symbol: str, right: object) -> Scalar:
        """left `symbol` right, where one of the two is self. Raises TypeError."""
        a, b = self._as_scalar(left), self._as_scalar(right)
        non_negative = a.non_negative and b.non_negative
        if a.is_bool != b.is_bool or (a.is_bool and symbol not in ("&", "|")):
            raise TypeError(f"{symbol} takes no bool")
        if symbol in ("//", "%", ">>") and not (isinstance(right, int) and right > 0):
            raise TypeError(f"{symbol} takes a positive constant")
        # CuTe's remainder of a negative number is negative, torch's is not.
        if symbol == "%" and not a.non_negative:
            raise TypeError("% takes no number that may be negative")
        is_bool = a.is_bool or symbol in ("<", "<=", ">", ">=", "==", "!=")
        expression = f"{a.name}{symbol}{b.name}"
        return self.trace.add(expression, is_bool, non_negative and symbol != "-")

    def _as_scalar(self, value: object) -> Scalar:
        if isinstance(value, Scalar):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return Scalar(self.trace, str(value), non_negative=value >= 0)
        raise TypeError(f"a scalar does not compute with a {type(value).__name__}")


def record_operations(mask_mod: MaskMod) -> str | None:
    """Return what the mask_mod computes, as text; None if it does not work on CuTe's scalars.

    Mask_mods with equal texts are equal functions.
    """
    trace = Trace()
    function: Callable[..., object] = mask_mod
    try:
        result = function(*(Scalar(trace, name) for name in "bhqk"))
    except Exception:  # a function of a user may raise anything where it expects tensors
        return None
    if not isinstance(result, Scalar) or not result.is_bool:
        return None
    operations = trace.operations
    return None if len(operations) > MAX_OPERATIONS else "\n".join([*operations, result.name])
