"""Groups the runs of a history into nights: sets of runs that were made together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from maskbench.records import UnreadableRun
from reports.comparability import Run, fingerprint, machine_differences

MAX_GAP = timedelta(hours=2)  # between two successive runs of one night
MAX_NIGHT = timedelta(days=1)  # between the first and the last run that are judged together


def night_labels(runs: Sequence[Run]) -> list[int]:
    """The number of each run's night, for runs that are sorted by date.

    A night has one torch and one card, and less than MAX_GAP between its successive runs. The
    date does not matter: a night may begin before midnight and end after it. Runs of two versions
    of torch that were made in turn are two nights.
    """
    nights: dict[tuple[str, str | None], tuple[int, datetime]] = {}
    labels: list[int] = []
    for run in runs:
        saved, key = datetime.fromisoformat(run.saved), (run.torch, run.gpu_uuid)
        number, last = nights.get(key, (-1, datetime.min.replace(tzinfo=saved.tzinfo)))
        if saved - last > MAX_GAP:
            number = max(labels, default=-1) + 1
        nights[key] = number, saved
        labels.append(number)
    return labels


def by_night(runs: Sequence[Run]) -> list[Run]:
    """The runs, sorted by date, in the order of their nights.

    It differs from the order of their dates where several versions were run in turn.
    """
    labels = night_labels(runs)
    return [run for _, run in sorted(zip(labels, runs, strict=True), key=lambda pair: pair[0])]


def as_night(runs: Sequence[Run], within_a_day: bool = True) -> tuple[list[Run], list[str]]:
    """The runs of one night, oldest first and each once, with a note on each that is left out.

    Parameters
    ----------
    runs
        Runs in any order.
    within_a_day
        Whether runs that were saved days apart are refused.

    Raises
    ------
    UnreadableRun
        If the runs cannot be of one night: they have several versions of torch, are of machines
        whose times are not comparable, or were saved days apart.
    """
    night: list[Run] = []
    notes: list[str] = []
    for run in sorted(runs, key=lambda run: run.saved):
        twin = next((other for other in night if fingerprint(other) == fingerprint(run)), None)
        if twin:
            notes.append(f"{run.path}: is the same run as {twin.path}, counted once")
        else:
            night.append(run)
    first = night[0]
    for run in night[1:]:
        if run.torch != first.torch:
            raise UnreadableRun(
                f"{run.path}: has torch {run.torch}, and {first.path} has {first.torch}; the runs"
                " of a night have one torch, so judge the two apart"
            )
        if different := machine_differences(first, run):
            raise UnreadableRun(
                f"{run.path}: is not comparable with {first.path} ({'; '.join(different)}); the"
                " runs of a night are of one machine"
            )
        apart = datetime.fromisoformat(run.saved) - datetime.fromisoformat(first.saved)
        if within_a_day and apart > MAX_NIGHT:
            raise UnreadableRun(
                f"{run.path}: was saved {apart / MAX_NIGHT:.1f} days after {first.path}; the runs"
                " of a night are made within a day, so judge the two apart"
            )
    return night, notes
