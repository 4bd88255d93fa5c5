"""Accepted changes: a small file beside a history, which can be reviewed in git.

An acceptance moves the baseline of its cells to the runs that it names. Cells that those runs did
not time are no longer expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from maskbench.plain_text import plain_text
from maskbench.records import UnreadableRun
from maskbench.saved_files import read_bytes
from reports.comparability import Run
from reports.output_files import write_whole

FORMAT = 1
# pytest-benchmark dates the --benchmark-json file and the autosaved file of one run differently.
SAME_RUN = timedelta(seconds=5)
Text = Annotated[str, Meta(min_length=1, max_length=2000)]


class Acceptance(Struct, forbid_unknown_fields=True, frozen=True):
    """One change that somebody has accepted."""

    because: Text
    device: Text  # whose cells are meant
    torch: Text  # of the accepted runs
    runs: Annotated[dict[Text, Text], Meta(min_length=1)]  # file name: ISO date and time in UTC
    containing: Text | None = None  # a part of the names of the cells; None for all cells

    @property
    def since(self) -> str:
        """The date of the first accepted run."""
        return min(self.runs.values())

    def is_of(self, name: str) -> bool:
        """Whether a cell is accepted."""
        return self.containing is None or self.containing in name

    def names(self, saved: str) -> bool:
        """Whether a run of this date is an accepted one."""
        date = datetime.fromisoformat(saved)
        return any(
            abs(date - datetime.fromisoformat(one)) <= SAME_RUN for one in self.runs.values()
        )

    def covers(self, saved: str) -> bool:
        """Whether a run of this date is an accepted one or came after them."""
        return saved > max(self.runs.values()) or self.names(saved)


class _File(Struct, forbid_unknown_fields=True):
    format: int
    acceptances: list[Acceptance]


def read_acceptances(path: Path) -> list[Acceptance]:
    """All acceptances of a file, or none if it does not exist.

    Raises
    ------
    UnreadableRun
        If the file is damaged, has unknown fields or another format.
    """
    if not path.exists():
        return []
    try:
        file = msgspec.json.decode(read_bytes(path), type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableRun(
            f"{path}: is damaged ({error}); restore it from git, or remove it and accept again"
        ) from error
    if file.format != FORMAT:
        raise UnreadableRun(f"{path}: has format {file.format}; this version reads {FORMAT}")
    return file.acceptances


def accept_night(
    night: Sequence[Run], known: set[str], because: str, part_of_name: str | None, path: Path
) -> Acceptance:
    """Add an acceptance to a file.

    Parameters
    ----------
    night
        The accepted runs, oldest first, which become the baseline.
    known
        The names of all cells of these runs and of the history.
    because
        The reason, for those who review the file.
    part_of_name
        A text that the names of the accepted cells contain; None for all cells.

    Raises
    ------
    UnreadableRun
        If the reason is empty, no cell has that text in its name, or the file is damaged.
    """
    if not because.strip():
        raise UnreadableRun("--because: is empty; say why the change is accepted")
    if part_of_name == "":
        raise UnreadableRun("-k: is empty; leave it out to accept all cells")
    if part_of_name is not None and not any(part_of_name in name for name in known):
        raise UnreadableRun(
            f"-k {part_of_name}: no cell of these runs or of the history has that in its name"
        )
    acceptances = read_acceptances(path)
    added = Acceptance(
        because=plain_text(because),
        device=night[0].device,
        torch=night[0].torch,
        runs={run.path.name: run.saved for run in night},
        containing=part_of_name,
    )
    text = msgspec.json.encode(_File(FORMAT, [*acceptances, added]))
    try:
        msgspec.json.decode(text, type=_File)
    except msgspec.ValidationError as error:
        raise UnreadableRun(f"{path}: would not be readable again ({error})") from error
    write_whole(path, msgspec.json.format(text, indent=2).decode() + "\n")
    return added


def latest_acceptance(name: str, acceptances: Sequence[Acceptance]) -> Acceptance | None:
    """The acceptance of a cell that was made last; None if it was never accepted."""
    return next((one for one in reversed(acceptances) if one.is_of(name)), None)


def unused_notes(acceptances: Sequence[Acceptance], names: set[str]) -> list[str]:
    """A note on each acceptance of cells that no run has."""
    return [
        f"the acceptance of {one.since[:10]} ({one.because}) is of cells with {one.containing!r} in"
        " their names, and no run has such a cell"
        for one in acceptances
        if not any(one.is_of(name) for name in names)
    ]
