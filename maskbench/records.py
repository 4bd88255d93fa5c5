"""The schema of saved runs: every field that the suite writes and the reports read."""

from __future__ import annotations

from enum import Enum

FORMAT = 1  # of what is saved under "maskbench"


class _Text(str, Enum):
    """An enum whose members are, and print as, the strings in the saved files."""

    __str__ = str.__str__


class Phase(_Text):
    """What a cell times. Saved as `direction`."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BLOCK_MASK = "block_mask"
    VARIANT_FORWARD = "spelling_forward"
    VARIANT_BACKWARD = "spelling_backward"
    COMPILE_FORWARD = "compile_forward"
    COMPILE_BACKWARD = "compile_backward"
    FIDELITY_FORWARD = "fidelity_forward"
    FIDELITY_BACKWARD = "fidelity_backward"

    @property
    def needs_gradients(self) -> bool:
        return self.value.endswith("backward")

    @property
    def is_mask_mod_variant(self) -> bool:
        return self.value.startswith("spelling_")


class Outcome(_Text):
    """What became of a cell."""

    TIMED = "timed"
    SKIPPED = "skipped"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out of memory"
    FAILED = "failed"
