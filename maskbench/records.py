"""The names in saved runs that the suite and the reports share: format, phases and outcomes.

A saved run is pytest-benchmark's JSON. The suite adds fields to `machine_info`, `commit_info` and
each benchmark's `extra_info`, and a block named "maskbench". `maskbench.schema` has every field
that the reports read. `maskbench.reading.read_run` checks a file and returns it.
"""

from __future__ import annotations

from enum import Enum

FORMAT = 3  # of the files that are written
READABLE_FORMATS = (1, 2, 3)


class UnreadableRun(Exception):
    """A saved run that cannot be used. The message names the file and the reason, in one line."""


class TextEnum(str, Enum):
    """An enum whose members are, and print as, the strings in the saved files."""

    __str__ = str.__str__


class Phase(TextEnum):
    """What a cell times. Saved as `direction`."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BLOCK_MASK = "block_mask"
    VARIANT_FORWARD = "spelling_forward"
    VARIANT_BACKWARD = "spelling_backward"
    COMPILE_FORWARD = "compile_forward"
    COMPILE_BACKWARD = "compile_backward"
    SOAK_BACKWARD = "soak_backward"
    FIDELITY_FORWARD = "fidelity_forward"
    FIDELITY_BACKWARD = "fidelity_backward"
    TUNE_FORWARD = "tune_forward"
    TUNE_BACKWARD = "tune_backward"

    @property
    def needs_gradients(self) -> bool:
        return self.value.endswith("backward")

    @property
    def is_of_a_backend(self) -> bool:
        """Whether the cell's `backend` is one, not a builder, mask_mod variant or cache state."""
        return not self.value.startswith(("block_mask", "spelling_", "compile_"))

    @property
    def is_mask_mod_variant(self) -> bool:
        return self.value.startswith("spelling_")

    @property
    def is_search(self) -> bool:
        """Whether the cell searches options, and times those that it has found."""
        return self.value.startswith("tune_")

    @property
    def is_checked(self) -> bool:
        """Whether the result of a timed cell was compared with the reference."""
        return not self.value.startswith(("compile_", "fidelity_"))


class Outcome(TextEnum):
    """How a cell ended."""

    TIMED = "timed"
    SKIPPED = "skipped"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out of memory"
    FAILED = "failed"
    CRASHED = "crashed"  # its process died
    TIMED_OUT = "timed out"

    @property
    def is_failure(self) -> bool:
        """Whether the cell could run and did not end well."""
        return self in (Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT)
