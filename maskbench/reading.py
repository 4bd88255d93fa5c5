"""Reads saved runs of all formats, and refuses what cannot be trusted."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from maskbench import schema
from maskbench.journal import JOURNAL_SUFFIX, UnreadableJournal, parse_journal
from maskbench.legacy_formulations import legacy_formulation
from maskbench.plain_text import plain_text
from maskbench.records import READABLE_FORMATS, Outcome, UnreadableRun
from maskbench.repeated_keys import repeated_key
from maskbench.saved_files import read_bytes, unreadable

T = TypeVar("T", bound=msgspec.Struct)
CellRecord = dict[str, Any]  # the fields of a cell in `maskbench.schema`, by name
MIN_MEDIAN_S = 1e-12  # no call is faster
FIRST_FORMAT_WITH_ALL_ROUNDS = 3  # older files were thinned to keep a repository small


class NotARun(UnreadableRun):
    """A file that compare, history or gate wrote."""


@dataclass(frozen=True)
class SavedRun:
    """One saved file, checked. Its texts are on one line and without control characters."""

    path: Path
    saved: str  # ISO date and time in UTC; texts of it sort as the times do
    torch: str
    device: str  # the GPU's name, or the CPU with its number of threads
    machine_info: schema.Machine
    commit_info: schema.Software
    suite: schema.Suite
    cells: list[CellRecord]  # timed ones first

    @property
    def timed(self) -> list[CellRecord]:
        return [cell for cell in self.cells if cell["outcome"] is Outcome.TIMED]

    @property
    def incomplete(self) -> str | None:
        """Why the run ended early and what it lacks; None if it is whole."""
        lacking, reason = len(self.suite.not_run), self.suite.interrupted
        if not lacking and reason is None:
            return None
        planned = max(self.suite.planned or 0, lacking)
        why = plain_text(f"ended early ({reason})") if reason is not None else "is incomplete"
        return f"{why}: {lacking} of {planned} cells are missing"


def read_run(path: Path) -> SavedRun:
    """Read one saved file, or a journal. A file whose name ends in .gz is decompressed.

    Raises
    ------
    UnreadableRun
        If the file cannot be read, was not saved by this suite, lacks fields or has wrong ones,
        or has a cell that is wrong or in it twice.
    """
    text = read_bytes(path)
    return parse_run(_journal_as_run(text, path) if path.suffix == JOURNAL_SUFFIX else text, path)


def _journal_as_run(text: bytes | bytearray, path: Path) -> bytes:
    """The JSON that the run of a journal would have saved so far."""
    try:
        return msgspec.json.encode(parse_journal(text).as_saved_run())
    except UnreadableJournal as error:
        raise unreadable(path, f"is not a journal: {error}") from error


def parse_run(text: bytes | bytearray, path: Path) -> SavedRun:
    """The run that this JSON is. `path` is named in errors, which are those of `read_run`."""
    _require_format(text, path)
    file = _decoded(text, schema.RunFile, path)
    if found := repeated_key(text):
        key, position = found
        raise unreadable(path, f"has {key!r} twice in one object ({_place(text, position)})")
    machine = _with_plain_texts(file.machine_info)
    software = _with_plain_texts(file.commit_info)
    may_be_thinned = file.maskbench.format < FIRST_FORMAT_WITH_ALL_ROUNDS
    cells = [_timed_cell(bench, path, may_be_thinned) for bench in file.benchmarks]
    cells += [_untimed_cell(cell, path) for cell in file.maskbench.untimed]
    _require_distinct(cells, path)
    return SavedRun(
        path=path,
        saved=_utc(file.datetime, path),
        torch=software.torch,
        device=machine.gpu or f"CPU, {machine.torch_threads} threads",
        machine_info=machine,
        commit_info=software,
        suite=file.maskbench,
        cells=cells,
    )


def saved_at(path: Path) -> str:
    """When a run was saved, as `SavedRun.saved`. The rest of the file is not checked.

    Raises
    ------
    UnreadableRun
        If the file cannot be read or has no date.
    """
    return _utc(_decoded(read_bytes(path), schema.DateHead, path).datetime, path)


def _require_format(text: bytes | bytearray, path: Path) -> None:
    """Refuse JSON that this suite did not save, or saved in an unknown format."""
    if not text or text.isspace():
        raise unreadable(path, "is empty; was the run that saved it cut off?")
    head = _decoded(text, schema.FileHead, path)
    if head.benchmarks is UNSET:
        if head.verdict is not UNSET:
            raise NotARun(f"{path}: is the result of a report, not a saved run")
        raise unreadable(path, "is JSON, but not saved by pytest-benchmark")
    if head.maskbench is UNSET:
        raise unreadable(path, "is saved by pytest-benchmark, but not from this suite")
    number = _decoded(bytes(head.maskbench), schema.FormatHead, path).format
    if number not in READABLE_FORMATS:
        known = ", ".join(map(str, READABLE_FORMATS))
        raise unreadable(path, f"has format {number}; this version reads formats {known}")


def _decoded(text: bytes | bytearray, kind: type[T], path: Path) -> T:
    """The text as an object of `kind`, whose fields have the types and limits of the schema."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "")
        raise unreadable(path, f"is not as this suite saves runs: {reason}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        at = re.search(r"\(byte (\d+)\)", str(error))
        where = _place(text, int(at[1])) if at else error
        raise unreadable(path, f"is not JSON or is truncated ({where})") from error
    except RecursionError as error:
        raise unreadable(path, "is nested too deeply for a saved run") from error


def _place(text: bytes | bytearray, position: int) -> str:
    """Where in the file a byte is, what is there, and the cell that it belongs to."""
    line = text.count(b"\n", 0, position) + 1
    there = bytes(text[position : position + 20]).decode(errors="replace").partition("\n")[0]
    place = f"line {line}: {there}"
    name = text.rfind(b'"fullname":', 0, position)
    if name < 0:
        return place
    cell = re.match(rb'"fullname":\s*"([^"\n]{0,300})', text[name : name + 400])
    return f"{place}, in or after cell {cell[1].decode(errors='replace')}" if cell else place


def _utc(date: str, path: Path) -> str:
    """An ISO date as one of fixed length in UTC. A date without a zone is taken as UTC."""
    try:
        time = datetime.fromisoformat(f"{date[:-1]}+00:00" if date.endswith("Z") else date)
        if time.tzinfo is None:
            time = time.replace(tzinfo=timezone.utc)
        return time.astimezone(timezone.utc).isoformat(timespec="microseconds")
    except (ValueError, OverflowError) as error:
        raise unreadable(path, f"has no date and time in datetime ({error})") from error


def _plain_fields(fields: Iterable[tuple[str, Any]]) -> CellRecord:
    """The fields that the file has, with texts that are safe to print."""
    return {
        name: plain_text(value) if type(value) is str else value
        for name, value in fields
        if value is not UNSET
    }


def _cell_fields(cell: schema.Cell) -> CellRecord:
    """The fields of a cell, complete with those that are saved only where they are unusual."""
    fields = _plain_fields(_items(cell))
    return {"q_len": cell.seq_len, "v_head_dim": cell.head_dim, **fields}


def _with_plain_texts(struct: T) -> T:
    fields = _plain_fields(_items(struct))
    return type(struct)(**fields)


def _items(struct: msgspec.Struct) -> Iterable[tuple[str, Any]]:
    return ((name, getattr(struct, name)) for name in struct.__struct_fields__)


def _untimed_cell(cell: schema.UntimedCell, path: Path) -> CellRecord:
    fields = _cell_fields(cell)
    if cell.outcome is Outcome.TIMED:
        raise unreadable(path, f"{fields['fullname']} is timed, but has no time")
    return fields


def _timed_cell(bench: schema.Benchmark, path: Path, may_be_thinned: bool) -> CellRecord:
    """The fields of a timed cell, whichever format it was saved in."""
    extra, stats = bench.extra_info, bench.stats
    fields = _cell_fields(extra) | {
        "fullname": plain_text(bench.fullname),
        "form": plain_text(extra.form or ""),
        "outcome": Outcome.TIMED,
        "reason": "",
        "median_s": stats.median,
        "min_s": stats.min,
        "iqr_s": stats.iqr,
        "rounds": stats.rounds,
        "timer": plain_text(bench.options.timer),
        "interval": extra.interval or 0.0,
        "two_modes": bool(extra.two_modes),
        "throttle": [plain_text(reason) for reason in extra.throttle],
        "clock_mhz": _clock_mhz(extra),
    }
    if fields["formulation"] is None and extra.form:
        fields["formulation"] = legacy_formulation(fields["form"])
    if stats.data is not UNSET:
        fields["data"] = _rounds(stats, f"{path}: {fields['fullname']}", may_be_thinned)
    _require_right(fields, path)
    return fields


def _clock_mhz(extra: schema.TimedCell) -> float:
    """The SM clock from the most exact of three fields; NaN if it is unknown."""
    for mhz in (extra.call_clock_mhz, extra.spin_clock_mhz):
        if isinstance(mhz, float) and mhz:
            return mhz
    readings = [mhz for mhz in extra.sm_clock_mhz or () if mhz]
    return sum(readings) / len(readings) if readings else math.nan


def _rounds(stats: schema.Stats, cell: str, may_be_thinned: bool) -> array[float]:
    """The seconds of each round, or of some if they `may_be_thinned`.

    They are counted before they are decoded, so that memory is bounded.
    """
    raw = bytes(stats.data)  # type: ignore[arg-type]  # the caller checks that it is there
    count = raw.count(b",") + 1 if raw.strip(b"[] \n") else 0
    if count > stats.rounds or (count < stats.rounds and not may_be_thinned):
        raise UnreadableRun(plain_text(f"{cell} has {stats.rounds} rounds, but times of {count}"))
    try:
        return array("d", msgspec.json.decode(raw, type=list[float]))
    except msgspec.ValidationError as error:
        raise UnreadableRun(plain_text(f"{cell}: data: {error}")) from error


def _require_right(cell: CellRecord, path: Path) -> None:
    """Refuse a timed cell that has no time, or whose result was wrong or not checked."""
    name, phase = cell["fullname"], cell["direction"]
    if not cell["median_s"] >= MIN_MEDIAN_S:
        raise unreadable(path, f"{name} has no time above 0 (median {cell['median_s']} s)")
    if not phase.is_checked:
        return
    error, bound = cell.get("error"), cell.get("error_bound")
    if error is None or bound is None:
        raise unreadable(path, f"{name} is timed, but has no error and error_bound")
    if not error <= bound:
        raise unreadable(path, f"{name} is wrong: its error {error:g} is over its bound {bound:g}")


def _require_distinct(cells: list[CellRecord], path: Path) -> None:
    """Refuse a file with two times for one cell, or with a time and another outcome."""
    timed: set[str] = set()
    for cell in cells:  # timed ones first
        name, outcome = cell["fullname"], cell["outcome"]
        if name in timed:
            raise unreadable(path, f"{name} is in it twice: timed and {outcome}")
        if outcome is Outcome.TIMED:
            timed.add(name)
