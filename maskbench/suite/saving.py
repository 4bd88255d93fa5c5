"""What the suite adds to the JSON that pytest-benchmark makes, and how and when it is saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from pytest_benchmark.logger import Logger

from maskbench.suite.collection import is_benchmark
from maskbench.suite.ending import Ending, noise_line, not_run_line
from maskbench.suite.error_text import describe_error
from maskbench.suite.histogram import MAX_BENCHMARKS, draw_histogram
from maskbench.suite.journaling import Journaling
from maskbench.suite.locks import DeviceUse, Lock, describe, lock_target
from maskbench.suite.options import RUN_CONFIG, benchmarking
from maskbench.suite.outcomes import OutcomeCollector
from maskbench.suite.session_clock import get_clock
from maskbench.suite.software import software_versions
from maskbench.suite.stages import STAGE_SECONDS, time_breakdown
from maskbench.suite.targets import Storage, Targets
from maskbench.whole_files import strict_json, write_whole

_T = TypeVar("_T")
RUN_SAVER = pytest.StashKey["RunSaver"]()


def device_key(device: str) -> str:
    """What tells the device from the machine's others."""
    return f"GPU {torch.cuda.get_device_properties(0).uuid}" if device == "cuda" else "CPU"


def make_logger(config: pytest.Config) -> Any:  # its methods have no annotations
    """pytest-benchmark's logger, as its options set it."""
    level = Logger.NORMAL
    if config.option.benchmark_verbose:
        level = Logger.VERBOSE
    elif config.option.benchmark_quiet:
        level = Logger.QUIET
    return Logger(level, config=config)  # type: ignore[no-untyped-call]


class RunSaver:
    """Saves a run in its targets, with the software, the outcomes and where the time went."""

    def __init__(self, config: pytest.Config, targets: Targets, journaling: Journaling) -> None:
        self.config, self.targets, self.journaling = config, targets, journaling
        self.logger = make_logger(config)
        device = config.stash[RUN_CONFIG].device
        self.outcomes = OutcomeCollector(journaling.write, device)
        config.pluginmanager.register(self.outcomes, "maskbench-outcomes")
        self.problems: list[str] = []  # what could not be saved, and why
        self._infos: dict[str, dict[str, object]] = {}
        self.ending = Ending(journaling.assignment.stopped_by)
        config.pluginmanager.register(self.ending, "maskbench-ending")
        self.interrupted: str | None = None  # why the run ended early, set at its end
        self.groups: list[tuple[str | None, list[dict[str, Any]]]] = []
        self.device_use: DeviceUse | None = None
        self.lock: Lock | None = None
        # A session that only collects, and a worker of pytest-xdist, save nothing.
        self.may_save = not (config.option.collectonly or hasattr(config, "workerinput"))
        if targets.json and self.may_save:
            self.lock = lock_target("--benchmark-json", targets.json)

    # --- another run on the device ---

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not benchmarking(self.config) or not any(map(is_benchmark, session.items)):
            return
        self.device_use = DeviceUse(device_key(self.config.stash[RUN_CONFIG].device))
        if others := self.device_use.others():
            self._say(f"Shared device: {describe(others.items())} uses it; times may be disturbed")

    def _say(self, text: str, **markup: bool) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal:  # None with -p no:terminal
            terminal.ensure_newline()
            terminal.write_line(text, **markup)

    # --- what is saved ---

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, object]) -> None:
        machine_info |= get_clock(self.config).machine_info()

    def pytest_benchmark_update_commit_info(self, commit_info: dict[str, object]) -> None:
        commit_info |= software_versions()

    def pytest_benchmark_update_json(self, output_json: dict[str, object]) -> None:
        output_json["maskbench"] = {
            **self.journaling.run_fields(),
            "untimed": self.outcomes.untimed_cells,
            "planned": len(self.outcomes.planned),
            "not_run": self.outcomes.not_run,
            "interrupted": self.interrupted,
            "shared_device": self.shares_device() or self.journaling.shared_device,
        }

    def has_all_of_the_journal(self) -> bool:
        """Whether every cell of the journal is among this session's."""
        return not self.journaling.not_yet_replayed({*self.outcomes.timed, *self.outcomes.untimed})

    def shares_device(self) -> bool:
        """Whether another run has used the device since this process started."""
        return bool(self.device_use and self.device_use.others())

    # First, so that the files are written before pytest-benchmark makes its tables, and the exit
    # status is set after all else.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        self.outcomes.discard_unfinished()
        planned, not_run = self.outcomes.planned, self.outcomes.not_run
        self.interrupted = self.ending.why_early(session, planned, not_run)
        is_saved = False
        if not self.has_all_of_the_journal():
            self._say("maskbench: nothing is saved yet: cells of the journal were not read")
        elif self.may_save and session.exitstatus != pytest.ExitCode.USAGE_ERROR:
            is_saved = self._save()
        self.journaling.end(self.interrupted, is_saved=is_saved and not self.problems)
        result = yield
        if self.problems and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def _save(self) -> bool:
        """Write each target; return whether the run is in one of them.

        One that fails does not keep the others from being written.
        """
        path, storage = self.targets.json, self.targets.storage
        if path is None and storage is None:
            return False
        infos = {name: self.info(name) for name in ("machine_info", "commit_info")}
        lines = []
        if path is not None:
            lines.append(self._attempt(str(path), self._write_json, path, infos))
        if storage is not None and self.outcomes.timed:
            lines.append(self._attempt(str(storage.folder), self._store, storage, infos))
        elif storage is not None:
            lines.append(f"Nothing saved in: {storage.folder}: nothing was timed")
        for line in filter(None, lines):  # after all is written: stderr may be closed
            self.logger.info(line)
        for problem in self.problems:
            self.logger.error(f"maskbench: could not save {problem}")
        return path is not None or bool(self.outcomes.timed)

    def _write_json(self, path: Path, infos: dict[str, dict[str, object]]) -> str:
        write_whole(path, self._content(infos, include_data=True))
        return f"Wrote benchmark data in: {path}"

    def _store(self, storage: Storage, infos: dict[str, dict[str, object]]) -> str:
        include_data = self.config.option.benchmark_save_data
        return f"Saved benchmark data in: {storage.save(self._content(infos, include_data))}"

    def _attempt(
        self, what: str, action: Callable[..., _T], *arguments: Any, **named: Any
    ) -> _T | None:
        """The result of `action`; None if it raises. The problem is then noted, with `what`."""
        try:
            return action(*arguments, **named)
        except Exception as error:  # whatever a hook or the system raises: save the rest
            reason = error.strerror if isinstance(error, OSError) else None
            self.problems.append(f"{what}: {reason or describe_error(error)}")
            return None

    def info(self, name: str) -> dict[str, object]:
        """The machine or the commit, from the hooks of pytest-benchmark and all plugins."""
        if name not in self._infos:
            generate = getattr(self.config.hook, f"pytest_benchmark_generate_{name}")
            self._infos[name] = self._attempt(name, generate, config=self.config) or {}
            self._update(name, self._infos[name])
        return self._infos[name]

    def _update(self, name: str, value: dict[str, object], **arguments: object) -> None:
        """Let all plugins add to `value`. If one raises, this suite's fields are there anyway."""
        hook = f"pytest_benchmark_update_{name.removeprefix('output_')}"
        arguments |= {"config": self.config, name: value}
        if self._attempt(name, getattr(self.config.hook, hook), **arguments) is None:
            self._attempt(name, getattr(self, hook), value)

    def _content(self, infos: dict[str, dict[str, object]], include_data: bool) -> bytes:
        benchmarks = self.outcomes.benchmarks
        run = self.config.hook.pytest_benchmark_generate_json(
            config=self.config, benchmarks=benchmarks, include_data=include_data, **infos
        )
        self._update("output_json", run, benchmarks=benchmarks)
        return strict_json(run)

    # --- the terminal ---

    @pytest.hookimpl(wrapper=True)
    def pytest_benchmark_group_stats(self) -> Generator[None, Any, Any]:
        self.groups = yield
        return self.groups

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> Generator[None, None, None]:
        self._summarize(terminalreporter, exitstatus)
        try:
            return (yield)
        finally:  # pytest-benchmark raises an error if a comparison fails
            self._draw_histograms()
            for problem in self.problems:
                terminalreporter.write_line(f"maskbench: could not save {problem}", red=True)

    def _draw_histograms(self) -> None:
        prefix = self.targets.histogram
        if prefix is None or self.config.option.benchmark_quiet:
            return
        for group, benchmarks in self.groups:
            name = f"the histogram of {group}"
            path = self._attempt(name, draw_histogram, self.config, prefix, group, benchmarks)
            if path and len(benchmarks) > MAX_BENCHMARKS:
                self.logger.info(f"{name} has the {MAX_BENCHMARKS} first of {len(benchmarks)}")
            if path:
                self.logger.info(f"Generated histogram: {path}", bold=True)

    def _summarize(self, terminal: pytest.TerminalReporter, exit_status: int) -> None:
        if STAGE_SECONDS["time"]:
            seconds = time_breakdown()
            total = seconds.pop("total")
            parts = ", ".join(f"{stage} {s:.1f} s" for stage, s in seconds.items())
            terminal.section("maskbench: where the time went")
            terminal.write_line(f"{total:.1f} s: {parts}")
        cells = self.outcomes.untimed_cells
        counts = Counter((cell["outcome"], cell["reason"]) for cell in cells)
        if counts:
            terminal.section("maskbench: cells that were not timed")
        for (outcome, reason), number in counts.most_common():
            terminal.write_line(f"{number:5} {outcome}: {reason}")
        if noise := noise_line(self.outcomes.benchmarks):
            terminal.write_line(noise, yellow=True)
        # A run that is refused ends with pytest's own line, which says why.
        may_tell = self.may_save and exit_status != pytest.ExitCode.USAGE_ERROR
        if (not_run := self.outcomes.not_run) and may_tell:
            planned, keys = len(self.outcomes.planned), self.outcomes.cell_keys
            named = self.config.stash[RUN_CONFIG].backends_named
            line = not_run_line(not_run, planned, keys, named, self.interrupted)
            terminal.write_line(line, yellow=True)
        if others := self.device_use and self.device_use.others():
            terminal.write_line(f"Shared device: {describe(others.items())} used it", yellow=True)

    def pytest_unconfigure(self) -> None:
        if self.lock:
            self.lock.remove()
        if self.device_use:
            self.device_use.close()
