"""A pytest plugin that adds the options of pytest-xdist and pytest-forked, and does nothing."""


def pytest_addoption(parser):
    group = parser.getgroup("parallel")
    group.addoption("--numprocesses", type=int)
    group.addoption("--forked", action="store_true")
