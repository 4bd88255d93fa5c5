"""What the suite adds to the JSON that pytest-benchmark saves, and to the terminal's summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

import pytest

from maskbench.records import FORMAT, Outcome
from maskbench.suite.journaling import JOURNALING
from maskbench.suite.options import RUN_CONFIG
from maskbench.suite.replay import REPLAYED_CELL
from maskbench.suite.session_clock import get_clock
from maskbench.suite.software import software_versions
from maskbench.suite.stages import STAGE_SECONDS, time_breakdown

CELL_RECORD = pytest.StashKey[dict[str, object]]()  # of an item: the saved fields of its cell


def json_target(config: pytest.Config) -> Path | None:
    """The file of --benchmark-json. Up to pytest-benchmark 5.2 the option is an open file."""
    option = config.option.benchmark_json
    if not option:
        return None
    return Path(option.name if hasattr(option, "write") else option)


def require_writable_output(config: pytest.Config) -> None:
    """Refuse output options that would fail only after everything has been timed.

    Raises
    ------
    pytest.UsageError
        If the file of --benchmark-json cannot be written, or --benchmark-histogram was given
        and pygal is not installed.
    """
    path = json_target(config)
    if path:
        existed = path.exists()
        try:
            path.open("ab").close()
        except OSError as error:
            advice = "name a file in an existing folder that you may write"
            raise pytest.UsageError(
                f"--benchmark-json {path}: {error.strerror}; {advice}"
            ) from None
        if not existed:
            path.unlink()
    if config.option.benchmark_histogram and not find_spec("pygal"):
        advice = "run pip install pytest-benchmark[histogram]"
        raise pytest.UsageError(f"--benchmark-histogram: pygal is not installed; {advice}")


class RunSaver:
    """Collects why cells were not timed; saves that, the software and where the time went."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.untimed: list[dict[str, object]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        record = item.stash.get(CELL_RECORD, None)
        journal = self.config.stash[JOURNALING].journal
        if record is not None and call.when == "call":
            if report.failed and call.excinfo:
                first_line = (str(call.excinfo.value).strip().splitlines() or [""])[0]
                record["outcome"] = Outcome.FAILED.value
                record["reason"] = f"{call.excinfo.typename}: {first_line}"
            if "outcome" in record:
                final = item.stash.get(REPLAYED_CELL, None) or {"fullname": item.nodeid, **record}
                self.untimed.append(final)
                if journal:
                    journal.append("untimed", cell=final)
            elif item.funcargs["benchmark"].stats:
                if journal:
                    journal.append(
                        "timed",
                        benchmark=item.funcargs["benchmark"].stats.as_dict(include_data=True),
                    )
        return report

    def header(self) -> dict[str, object]:
        """The first line of the journal: what is known before the first cell."""
        run: dict[str, object] = {"datetime": datetime.now(timezone.utc).isoformat()}
        hook = self.config.hook
        for part in ("machine_info", "commit_info"):
            run[part] = getattr(hook, f"pytest_benchmark_generate_{part}")(config=self.config)
            update = getattr(hook, f"pytest_benchmark_update_{part}")
            update(config=self.config, **{part: run[part]})
        run["maskbench"] = {
            "format": FORMAT,
            "jobs": self.config.stash[RUN_CONFIG].jobs,
            "launch_us": 1e6 * get_clock(self.config).launch_overhead_s,
        }
        return run

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, object]) -> None:
        machine_info |= get_clock(self.config).machine_info()

    def pytest_benchmark_update_commit_info(self, commit_info: dict[str, object]) -> None:
        commit_info |= software_versions()

    def pytest_benchmark_update_json(self, output_json: dict[str, object]) -> None:
        output_json["maskbench"] = {
            "format": FORMAT,
            "untimed": self.untimed,
            "seconds": time_breakdown(),
            "jobs": self.config.stash[RUN_CONFIG].jobs,
            "launch_us": 1e6 * get_clock(self.config).launch_overhead_s,
        }

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """If nothing was timed, pytest-benchmark saves nothing: save the reasons."""
        result = yield
        path = json_target(self.config)
        if path and self.untimed and not (path.exists() and path.stat().st_size):
            path.write_text(json.dumps(self._untimed_run(), indent=4))
        return result

    def _untimed_run(self) -> dict[str, object]:
        """What pytest-benchmark would save of a run that timed nothing, made with its hooks."""
        hook = self.config.hook
        run: dict[str, object] = {"datetime": datetime.now(timezone.utc).isoformat()}
        for part in ("machine_info", "commit_info"):
            run[part] = getattr(hook, f"pytest_benchmark_generate_{part}")(config=self.config)
            update = getattr(hook, f"pytest_benchmark_update_{part}")
            update(config=self.config, **{part: run[part]})
        run["benchmarks"] = []
        hook.pytest_benchmark_update_json(config=self.config, benchmarks=[], output_json=run)
        return run

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if STAGE_SECONDS["time"]:
            seconds = time_breakdown()
            total = seconds.pop("total")
            parts = ", ".join(f"{stage} {s:.1f} s" for stage, s in seconds.items())
            terminalreporter.section("maskbench: where the time went")
            terminalreporter.write_line(f"{total:.1f} s: {parts}")
        counts = Counter((cell["outcome"], cell["reason"]) for cell in self.untimed)
        if counts:
            terminalreporter.section("maskbench: cells that were not timed")
        for (outcome, reason), number in counts.most_common():
            terminalreporter.write_line(f"{number:5} {outcome}: {reason}")
