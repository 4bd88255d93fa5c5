"""The journal of a run: a file to which each cell is appended as it ends.

A run that is killed keeps its journal, from which `--resume` goes on and which the reports read.
The journal is a text file with one JSON object a line:

- `run`: the first line. The machine, the software, and the node ids of the planned benchmarks.
- `piece`: a process starts, or starts again, to time cells.
- `timed`: a cell with a time, as pytest-benchmark saves it.
- `untimed`: a cell without one, with its outcome and reason.
- `died`: a test that is no benchmark ended its process.
- `end`: the run is over. `interrupted` says why it ended early; null if it is whole.

A cell that ran again has several lines, of which the last counts. A line that lacks its newline was
cut off by a kill and is ignored. Another damaged line, such as one of a disk that failed, is left
out and named: its cell counts as not run.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from typing import Any

JOURNAL_SUFFIX = ".jsonl"
JOURNAL_FORMAT = 1
# What reading a line that the suite did not write like this can raise.
BAD_LINE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class UnreadableJournal(Exception):
    """A journal that cannot be used. The message gives the reason, without the path."""


@dataclass
class Journal:
    """What a journal says.

    Parameters
    ----------
    run
        The first line: `machine_info`, `commit_info`, `datetime`, `maskbench`, `planned`, `grid`.
    timed, untimed
        The cells by node id. A node id is in one of them only.
    died
        How a test that is no benchmark ended its process (`reason`, `phase`), by node id.
    pieces_of
        The number of processes that have timed it one after another, by the number of the GPU.
    seconds_of
        Wall time by stage, in seconds, by process.
    piece_of_pid
        The process that wrote with this process id last.
    shared_device
        Whether another run used the device when a process of this one started.
    is_finished, interrupted
        Whether the run came to its end; why not, if it ended early.
    damaged
        The numbers of the lines that could not be used, from 1.
    """

    run: dict[str, Any]
    timed: dict[str, dict[str, Any]] = field(default_factory=dict)
    untimed: dict[str, dict[str, Any]] = field(default_factory=dict)
    died: dict[str, dict[str, Any]] = field(default_factory=dict)
    pieces_of: dict[str, int] = field(default_factory=dict)
    seconds_of: dict[str, dict[str, float]] = field(default_factory=dict)
    piece_of_pid: dict[str, str] = field(default_factory=dict)
    shared_device: bool = False
    is_finished: bool = False
    interrupted: str | None = None
    damaged: list[int] = field(default_factory=list)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self.timed or node_id in self.untimed or node_id in self.died

    @property
    def number_finished(self) -> int:
        """The number of tests that have ended."""
        return len(self.timed) + len(self.untimed) + len(self.died)

    @property
    def not_run(self) -> list[str]:
        """The planned node ids that have neither a time nor an outcome."""
        return [name for name in self.run["planned"] if name not in self]

    @property
    def damage(self) -> str:
        """Which lines are left out, as a sentence without its full stop; "" if none is."""
        if not self.damaged:
            return ""
        lines = ", ".join(map(str, self.damaged))
        return f"damaged lines of the journal are left out: {lines}"

    @property
    def pieces(self) -> int:
        """In how many processes, one after another, the run was made."""
        return max(self.pieces_of.values(), default=1)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by stage, in seconds, summed over all processes."""
        total: Counter[str] = Counter()
        for seconds in self.seconds_of.values():
            total.update(seconds)
        return dict(total)

    def as_saved_run(self) -> dict[str, Any]:
        """The JSON that the run would save now."""
        ended = self.is_finished or self.interrupted
        reasons = [self.interrupted if ended else "the run has not ended", self.damage]
        return {
            **{name: self.run[name] for name in ("machine_info", "commit_info", "datetime")},
            "benchmarks": list(self.timed.values()),
            "maskbench": {
                **self.run["maskbench"],
                "untimed": list(self.untimed.values()),
                "seconds": self.seconds,
                "planned": len(self.run["planned"]),
                "not_run": self.not_run,
                "interrupted": "; ".join(filter(None, reasons)) or None,
                "pieces": self.pieces,
                "shared_device": self.shared_device,
            },
        }


def parse_journal(text: str | bytes | bytearray) -> Journal:
    """Read the text of a journal. Raises UnreadableJournal if its first line cannot be used."""
    if not isinstance(text, str):
        text = text.decode("ascii", errors="replace")
    lines = text.split("\n")[:-1]  # what follows the last newline was cut off
    if not lines:
        raise UnreadableJournal(
            "has no complete line; the run may have been killed before its first cell"
        )
    try:
        journal = _start(_entry(lines[0]))
    except BAD_LINE as error:
        raise UnreadableJournal(f"line 1 is not a valid journal line ({error!r})") from None
    for number, line in enumerate(lines[1:], 2):
        try:
            _add(journal, _entry(line))
        except BAD_LINE:
            journal.damaged.append(number)
    return journal


def _entry(line: str) -> dict[str, Any]:
    """The JSON object of a line. Raises an error of BAD_LINE."""
    if not line.isascii():  # a damaged character in a text would else go unnoticed
        raise ValueError("has a character that is not ASCII")
    entry: dict[str, Any] = json.loads(line)
    return entry


def _start(entry: dict[str, Any]) -> Journal:
    """The journal that begins with this line."""
    if entry["kind"] != "run" or entry["journal"] != JOURNAL_FORMAT:
        raise UnreadableJournal(f"does not begin with a run of journal format {JOURNAL_FORMAT}")
    mappings = [entry[n] for n in ("machine_info", "commit_info", "maskbench", "grid")]
    texts = [entry["datetime"], *entry["planned"]]
    if not all(isinstance(m, dict) for m in mappings) or not all(isinstance(t, str) for t in texts):
        raise TypeError("a field has the wrong type")
    return Journal(entry)


def _add(journal: Journal, entry: dict[str, Any]) -> None:
    """Apply one line, or nothing of it if it raises an error of BAD_LINE."""
    kind, pid = entry["kind"], str(entry.get("pid"))
    spent = entry.get("seconds", {}).items()
    seconds = {str(stage): float(value) for stage, value in spent}
    if kind == "piece":
        worker = str(entry["worker"])
        journal.pieces_of[worker] = journal.pieces_of.get(worker, 0) + 1
        # In a container, two processes of a run can have the same number.
        journal.piece_of_pid[pid] = f"{worker}.{journal.pieces_of[worker]}"
        journal.shared_device |= bool(entry.get("shared_device"))
        journal.is_finished, journal.interrupted = False, None
    elif kind == "end":
        _require_texts(entry["interrupted"] or "")
        journal.interrupted = entry["interrupted"]
        journal.is_finished = journal.interrupted is None
    elif kind == "died":
        _require_texts(entry["fullname"], entry["reason"])
        journal.died[entry["fullname"]] = entry
    elif kind == "timed":
        _require_times(entry["benchmark"])
        name = entry["benchmark"]["fullname"]
        journal.untimed.pop(name, None)
        journal.timed[name] = entry["benchmark"]
    elif kind == "untimed":
        name = entry["cell"]["fullname"]
        _require_texts(name, entry["cell"]["outcome"], entry["cell"]["reason"])
        journal.timed.pop(name, None)
        journal.untimed[name] = entry["cell"]
    else:
        raise ValueError(f"kind {kind!r}")
    if seconds:
        journal.seconds_of[journal.piece_of_pid.get(pid, pid)] = seconds


def _require_texts(*values: object) -> None:
    if not all(isinstance(value, str) for value in values):
        raise TypeError("a field has the wrong type")


def _require_times(benchmark: dict[str, Any]) -> None:
    """Raise an error of BAD_LINE if a later process could not replay the benchmark."""
    stats, times = benchmark["stats"], benchmark["stats"]["data"]
    _require_texts(benchmark["fullname"], benchmark["options"]["timer"])
    if not isinstance(benchmark["extra_info"], dict) or not isinstance(times, list):
        raise TypeError("a field has the wrong type")
    if not isinstance(stats["iterations"], int) or not all(
        isinstance(seconds, (int, float)) for seconds in times
    ):
        raise TypeError("a field has the wrong type")
    if not times or stats["iterations"] < 1:
        raise ValueError("it has no times")


class JournalFile:
    """A journal that is open for appending.

    Each line is written by one call, so that the children of one run on several GPUs can share it.

    Raises
    ------
    OSError
        If the file cannot be opened; BlockingIOError if another run writes to it. A process of
        the same run that is writing is allowed with `is_shared`.
    """

    def __init__(self, path: Path, is_shared: bool = True) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        if not is_shared:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The processes of one run hold this lock together: `is_locked` sees any of them.
        fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def append(self, kind: str, **values: object) -> None:
        """Append one line of JSON values. Raises OSError; the file then has no part of the line."""
        line = json.dumps({"kind": kind, **values}) + "\n"
        data = line.encode()
        size = os.fstat(self._file).st_size
        written = os.write(self._file, data)
        if written < len(data):  # the disk is full
            os.ftruncate(self._file, size)
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(self.path))

    def close(self) -> None:
        os.close(self._file)


def drop_cut_off_line(path: Path) -> None:
    """Remove the last line of a journal if a kill has cut it off: lines will be appended."""
    with path.open("rb+") as file:
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)


def is_locked(path: Path) -> bool:
    """Whether a run is writing to the journal."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` journals of a folder, except those that are in use."""
    journals = sorted(folder.glob(f"*{JOURNAL_SUFFIX}"), reverse=True)
    for path in journals[keep:]:
        if not is_locked(path):
            path.unlink(missing_ok=True)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What two grids differ in, such as "torch: 2.13.0 and 2.14.1"."""
    names: Iterable[str] = dict.fromkeys([*old, *new])
    return [f"{n}: {old.get(n)} and {new.get(n)}" for n in names if old.get(n) != new.get(n)]
