"""How a command of the reports refuses a bad file."""

from reports.__main__ import main


def refused(path, capsys, *command):
    """The only line that a command prints about a bad file."""
    status = main([*command, str(path)] if command else ["matrix", str(path)])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert error.isascii() or error.strip().isprintable()
    assert str(path) in error
    assert "Traceback" not in error
    return error
