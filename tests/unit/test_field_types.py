"""The fields of saved runs from others: values of other types, out of their limits, or missing."""

import copy
import json
from pathlib import Path

import pytest

from maskbench.reading import parse_run
from maskbench.records import UnreadableRun
from reports.__main__ import main
from tests.unit.real_run import RUN
from tests.unit.refused_files import refused

VALUES = (None, True, -1, 0, 1.5, 10**18, 1e300, "text", "", [], [None], {}, {"a": []})


def fields_of(value, place=()):
    """The places of all values in a JSON document."""
    yield place
    children = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        children = enumerate(value[:2])
    for key, child in children:
        yield from fields_of(child, (*place, key))


def replaced(document, place, value):
    changed = copy.deepcopy(document)
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return changed


def test_a_field_of_any_other_type_is_read_or_refused_in_one_line(small_run):
    """Returns nothing but a run or UnreadableRun, for each field and each JSON type."""
    errors = []
    for place in fields_of(small_run):
        for value in VALUES if place else ():
            changed = replaced(small_run, place, value)
            try:
                parse_run(json.dumps(changed).encode(), Path("run.json"))
            except UnreadableRun as error:
                errors.append(str(error))
    assert len(errors) > 500
    assert [e for e in errors if not (e.startswith("run.json: ") and e.isprintable())] == []


@pytest.mark.slow
def test_every_command_survives_every_field_of_every_type(small_run, tmp_path, capsys):
    """Each accepted run goes to two of the commands, in turn: all six would take three minutes."""
    seen = set()
    for place in fields_of(small_run):
        for value in VALUES if place else ():
            changed = replaced(small_run, place, value)
            try:
                run = parse_run(json.dumps(changed).encode(), Path("run.json"))
            except UnreadableRun:
                continue
            if repr(run) in seen:  # the field is one that no report reads
                continue
            seen.add(repr(run))
            path = tmp_path / "run.json"
            path.write_text(json.dumps(changed))
            history = tmp_path / "history"
            history.mkdir(exist_ok=True)
            (history / "0.json").write_text(json.dumps(changed))
            commands = (
                ["plots", str(path)],
                ["matrix", str(path)],
                ["validation", str(path)],
                ["compare", str(RUN), str(path)],
                ["gate", str(path), "--history", str(history)],
                ["history", str(history)],
            )
            for command in (commands[len(seen) % 6], commands[(len(seen) + 3) % 6]):
                output = [] if command[0] == "validation" else ["-o", str(tmp_path / "out")]
                status = main([*command, *output])
                error = capsys.readouterr().err
                assert "Traceback" not in error, (place, value, command, error)
                assert status in (0, 1, 2, 3), (place, value, command)
                assert status != 2 or error.count("\n") == 1, (place, value, command, error)
    assert len(seen) > 50


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("stats", "median"), 0.0, "no time above 0"),
        (("stats", "median"), -1e-3, "no time above 0"),
        (("stats", "median"), 1e-320, "no time above 0"),
        (("stats", "median"), 1e300, "<= 1000000000"),
        (("stats", "rounds"), 0, "Expected int >= 1"),
        (("stats", "rounds"), 3, "has 3 rounds, but times of 2"),
        (("stats", "data"), [1e-3], "rounds, but times of 1"),
        (("stats", "data"), [], "rounds, but times of 0"),
        (("extra_info", "seq_len"), 10**18, "Expected int <= "),
        (("extra_info", "heads"), 0, "Expected int >= 1"),
        (("extra_info", "mask"), "m" * 10_000, "length <= 200"),
        (("extra_info", "error"), 1.0, "is over its bound"),
        (("extra_info", "error_bound"), 0.0, "is over its bound"),
        (("extra_info", "error"), -1.0, "Expected float >= 0"),
    ],
)
def test_a_value_out_of_its_limits_is_refused(place, value, message, tmp_path, capsys, small_run):
    small_run["maskbench"]["format"] = 3
    first = small_run["benchmarks"][0]
    first["stats"] |= {"rounds": 2, "data": [1e-3, 2e-3]}
    first[place[0]][place[1]] = value
    first["extra_info"].setdefault("formulation", "full")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(small_run))
    error = refused(path, capsys)
    assert message in error
    assert first["fullname"] in error or "$.benchmarks[0]" in error


@pytest.mark.parametrize("missing", ["error", "error_bound"])
def test_a_timed_cell_that_was_not_checked_is_refused(missing, tmp_path, capsys, small_run):
    del small_run["benchmarks"][1]["extra_info"][missing]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(small_run))
    assert "has no error and error_bound" in refused(path, capsys)


@pytest.mark.parametrize("direction", ["compile_forward", "fidelity_backward", "block_mask"])
def test_cells_whose_result_is_not_compared_need_no_error(direction, small_run):
    extra = small_run["benchmarks"][0]["extra_info"]
    extra["direction"] = direction
    if direction == "block_mask":
        extra |= {"error": 0, "error_bound": 0}
    else:
        del extra["error"], extra["error_bound"]
    assert parse_run(json.dumps(small_run).encode(), RUN).timed


@pytest.mark.parametrize("again", ["timed", "failed", "skipped"])
def test_a_cell_with_two_outcomes_is_refused(again, tmp_path, capsys, small_run):
    first = small_run["benchmarks"][0]
    if again == "timed":
        small_run["benchmarks"].append(first)
    else:
        cell = {**small_run["maskbench"]["untimed"][0], "fullname": first["fullname"]}
        small_run["maskbench"]["untimed"].append({**cell, "outcome": again})
    path = tmp_path / "run.json"
    path.write_text(json.dumps(small_run))
    message = refused(path, capsys)
    assert f"{first['fullname']} is in it twice: timed and {again}" in message
