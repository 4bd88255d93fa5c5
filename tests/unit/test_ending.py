"""What is noted of an interrupt, wherever in pytest's code it comes."""

from types import SimpleNamespace

import pytest

from maskbench.suite.ending import Ending, noise_line


def raise_interrupt():
    raise KeyboardInterrupt("SIGINT")


def test_an_interrupt_at_an_instruction_without_a_line_can_be_shown():
    """Python 3.11 has such instructions, and pytest fails to show a traceback with one."""
    no_line = raise_interrupt.__code__.replace(co_linetable=b"")
    function = type(raise_interrupt)(no_line, globals())
    with pytest.raises(KeyboardInterrupt) as excinfo:
        function()
    ending = Ending(None)
    ending.pytest_keyboard_interrupt(excinfo)
    assert ending.interrupt == "SIGINT"
    assert "SIGINT" in str(excinfo.getrepr(funcargs=True))


def test_the_traceback_of_an_interrupt_is_kept():
    with pytest.raises(KeyboardInterrupt) as excinfo:
        raise_interrupt()
    before = len(excinfo.traceback)
    Ending(None).pytest_keyboard_interrupt(excinfo)
    assert len(excinfo.traceback) == before


def cells_with(*intervals):
    return [SimpleNamespace(extra_info={"interval": interval}) for interval in intervals]


def test_the_summary_says_how_many_cells_are_noisy():
    without = SimpleNamespace(extra_info={"cache": "cold"})
    assert noise_line([*cells_with(0.01, 0.06, 0.5), without]) == (
        "maskbench: 2 of 3 cells are noisy (95 % interval over ±5%): is the machine busy?"
    )


def test_a_quiet_run_says_nothing_of_noise():
    assert noise_line(cells_with(0.01, 0.05)) is None
    assert noise_line([]) is None
