"""The commands whose tables are in documents: they print a report, or write it with -o.

Each command imports what it needs: pandas, SciPy and matplotlib take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskbench.records import UnreadableRun
from reports.tables import TableFormat
from reports.terminal import say

if TYPE_CHECKING:
    from reports.report import Report
    from reports.terminal import TablePrinter


def print_or_write(report: Report, name: str, document: Path | None, printer: TablePrinter) -> int:
    """Write a report between the markers `name` of a document, or print it if there is none.

    Raises as `reports.generated.replace_generated`.
    """
    from reports.generated import replace_generated

    if document is not None:
        path = replace_generated(document, name, report.markdown())
        say(f"written between the markers of {path}")
    elif printer.form.is_for_programs:
        say("\n".join(report.paragraphs()))
        printer.write(report.table())
    else:
        is_markdown = printer.form is TableFormat.MARKDOWN
        say(report.markdown() if is_markdown else report.text(), printer.stream)
    return 0


def ranking(
    runs: list[Path], document: Path | None, part_of_name: str | None, printer: TablePrinter
) -> int:
    """Print the fastest backends of each mask, on the device and as called from Python, with ties
    and the share of the peak."""
    from reports.drawing import attention_cells, load_by_shape
    from reports.ranking_table import NAME, ranking_report

    shapes = [attention_cells(cells) for cells, _ in load_by_shape(runs, Path(), part_of_name)]
    return print_or_write(ranking_report(shapes), NAME, document, printer)


def validation(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print how exact the times of runs are: fidelity, repeatability, rounds and lengths, with
    the targets."""
    from reports.validation import NAME, validation_report

    return print_or_write(validation_report(runs), NAME, document, printer)


def mask_mod_variants(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print the times of a mask whose mask_mod is written in several ways."""
    from reports.mask_mod_variants import NAME, mask_mod_variants_report

    return print_or_write(mask_mod_variants_report(runs), NAME, document, printer)


def accuracy(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print the errors of each backend against float64, and what the soaks found."""
    from reports.accuracy import NAME, accuracy_report

    return print_or_write(accuracy_report(runs), NAME, document, printer)


def decode(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print which share of the bandwidth decoding reaches."""
    from reports.decode import NAME, decode_report

    return print_or_write(decode_report(runs), NAME, document, printer)


def published(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print published throughputs and speed-ups beside those of runs."""
    from reports.published import NAME, published_report

    return print_or_write(published_report(runs), NAME, document, printer)


def releases(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print what changed between releases of torch."""
    from reports.releases import NAME, releases_report

    return print_or_write(releases_report(runs), NAME, document, printer)


def kernel_options(document: Path | None, printer: TablePrinter) -> int:
    """Print the fastest options of FlexAttention that were found, for each mask."""
    from reports.kernel_options import NAME, kernel_options_report, load_entries

    return print_or_write(kernel_options_report(load_entries()), NAME, document, printer)


def tuned_gains(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print how much faster flex_tuned is than flex, and the fastest other backend than
    flex_tuned."""
    from reports.tuned_gains import load_by_setup
    from reports.tuned_gains_table import NAME, gains_report

    return print_or_write(gains_report(load_by_setup(runs)), NAME, document, printer)


def options(mask: str) -> int:
    """Print the fastest options of FlexAttention for a mask, as code to paste."""
    from reports.kernel_options import load_entries, saved_name, snippet

    entries, name = load_entries(), saved_name(mask)
    own = [entry for entry in entries if entry.problem.mask == name]
    if not own:
        known = ", ".join(dict.fromkeys(entry.problem.mask for entry in entries))
        raise UnreadableRun(f"{mask}: has no options; masks with options are {known}")
    say("\n\n".join(snippet(entry) for entry in own))
    return 0


def gate_accuracy(runs: list[Path], document: Path | None, printer: TablePrinter) -> int:
    """Print how often the gate is wrong, measured on runs of unchanged code. It takes minutes."""
    from reports.comparability import load_run
    from reports.gate_accuracy_report import NAME, accuracy_report
    from reports.generated import generated_part
    from reports.other_methods import require_packages

    require_packages()
    if document is not None:
        generated_part(document, NAME)  # fails now rather than after minutes
    loaded = sorted((load_run(path) for path in runs), key=lambda run: run.saved)
    return print_or_write(accuracy_report(loaded), NAME, document, printer)
