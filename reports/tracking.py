"""The commands that track regressions: compare, gate, accept and history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskbench.plain_text import plain_text
from maskbench.records import UnreadableRun
from reports.output_files import distinct_names
from reports.terminal import say

if TYPE_CHECKING:
    from reports.comparability import Run
    from reports.terminal import TablePrinter
    from reports.verdict import Verdict

# The commands import what they need. matplotlib.pyplot takes a second to import, and main()
# selects matplotlib's backend before that.


def compare(
    base: list[Path], new: list[Path], history: Path | None, folder: Path, printer: TablePrinter
) -> int:
    """Compare runs of two versions. With one run on each side, a change is at most SUSPECT."""
    from reports.comparability import load_history, load_run
    from reports.compare import compare_sides
    from reports.nights import as_night
    from reports.runs import incomplete_note

    base_runs, base_notes = as_night([load_run(path) for path in base], within_a_day=False)
    new_runs, new_notes = as_night([load_run(path) for path in new], within_a_day=False)
    sides = [*base_runs, *new_runs]
    runs, notes = load_history(history, sides) if history else ([], [])
    verdict = compare_sides(base_runs, new_runs, runs)
    incomplete = [note for run in sides for note in incomplete_note(run.path, run.incomplete)]
    verdict.notes += [*base_notes, *new_notes, *incomplete, *notes]
    title = f"compare {described(base_runs)} to {described(new_runs)}"
    write_changes(verdict, "compare", title, folder, printer)
    return verdict.exit_status


def gate(
    new: list[Path],
    history: Path,
    acceptances: Path | None,
    strict: bool,
    folder: Path,
    printer: TablePrinter,
) -> int:
    """Judge the runs of a night by earlier runs, for CI. Exit status: 0 no regression, 1 a
    regression or cells that are no longer timed, 2 bad usage or unreadable file, 3 (with --strict)
    nothing could be compared."""
    from reports.acceptances import read_acceptances
    from reports.comparability import ACCEPTANCES, load_history, load_run
    from reports.gate import judge_night
    from reports.nights import as_night

    night, notes = as_night([load_run(path) for path in new])
    for run in night:
        require_whole(run)
    accepted = read_acceptances(acceptances or history / ACCEPTANCES)
    runs, history_notes = load_history(history, night)
    verdict = judge_night(night, runs, accepted, strict)
    verdict.notes += [*notes, *history_notes]
    write_changes(verdict, "gate", f"gate {described(night)}", folder, printer)
    if verdict.is_inconclusive:
        say(f"*** {verdict.conclusion}: no cell could be judged, so this is no all-clear ***")
    if verdict.exit_status == 1:
        say("to accept an intended change: python -m reports accept RUN... --because TEXT")
    return verdict.exit_status


def accept(
    new: list[Path],
    history: Path,
    acceptances: Path | None,
    because: str,
    part_of_name: str | None,
) -> int:
    """Accept the times of runs as the new baseline. Cells that they lack are not expected."""
    from reports.acceptances import accept_night
    from reports.comparability import ACCEPTANCES, load_history, load_run
    from reports.nights import as_night

    night, notes = as_night([load_run(path) for path in new])
    for run in night:
        require_whole(run)
    path = acceptances or history / ACCEPTANCES
    runs = load_history(history, night)[0] if history.is_dir() else []
    known = {str(name) for run in (*runs, *night) for name in run.cells.index}
    added = accept_night(night, known, because, part_of_name, path)
    timed = {name for run in night for name in run.rows if added.is_of(name)}
    for note in notes:
        say(f"note: {plain_text(note)}")
    say(
        f"{path}: accepted as in {described(night)}: {len(timed)} timed, and"
        f" {sum(map(added.is_of, known - timed))} not timed: {added.because}"
    )
    return 0


def described(runs: list[Run]) -> str:
    """The files and the torch of one night, for titles."""
    names = ", ".join(run.path.name for run in runs)
    return f"{names} (torch {runs[0].torch})"


def require_whole(run: Run) -> None:
    """Raises UnreadableRun if the run ended early: its missing cells may be the slow ones."""
    if run.incomplete:
        raise UnreadableRun(
            f"{run.path}: {run.incomplete}; end the run with --resume, then judge it"
        )


def write_changes(
    verdict: Verdict, command: str, title: str, folder: Path, printer: TablePrinter
) -> None:
    """Write the tables and pictures of `compare` and `gate`."""
    from reports import writers
    from reports.plots import changes
    from reports.plots.style import save

    title = plain_text(title)  # it has the names of files
    figures = {
        "changes.png": changes.draw_changes(verdict.cells, title),
        "heat.png": changes.draw_heat_map(verdict.cells, title),
    }
    writers.write_verdict(verdict, command, title, folder, printer)
    saved = [str(save(figure, folder / name)) for name, figure in figures.items() if figure]
    say(f"in {folder}/: summary.md, verdict.json; {', '.join(saved) or 'nothing to draw'}")


def history(storage: Path, folder: Path, part_of_name: str | None, printer: TablePrinter) -> int:
    """Draw all saved runs of one machine as trends, with the steps in them."""
    from reports import writers
    from reports.comparability import load_history
    from reports.history import build_history, cells_to_draw
    from reports.plots import trends
    from reports.plots.style import save

    runs, notes = load_history(storage, [])
    verdict, series = build_history(runs, part_of_name)
    verdict.notes += notes
    drawn = cells_to_draw(verdict.cells)
    if left_out := len(verdict.cells) - len(drawn):
        advice = "-k TEXT draws the cells with that text in their names"
        verdict.notes.append(f"{left_out} cells are left out of the pictures; {advice}")
    writers.write_verdict(verdict, "history", f"history of {storage}", folder, printer)
    pages = [
        ((str(mask), str(direction)), cells)
        for (mask, direction), cells in drawn.groupby(["mask", "direction"], sort=False)
    ]
    names = distinct_names(page for page, _ in pages)
    for page, cells in pages:
        figure = trends.draw(series, cells, f"{' '.join(page)}, {verdict.conclusion}")
        save(figure, folder / "trends" / f"{names[page]}.png")
    say(f"in {folder}/: summary.md, verdict.json, and {len(pages)} pictures in trends/")
    return 0
