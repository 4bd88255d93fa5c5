"""`-o DIR` of the commands that write into a folder."""

import pytest

from reports.__main__ import main
from reports.output_files import require_folder
from tests.unit.real_run import RUN

COMMANDS = {
    "plots": [str(RUN)],
    "matrix": [str(RUN)],
    "page": [str(RUN)],
    "compare": [str(RUN), str(RUN)],
    "gate": [str(RUN)],
    "history": [str(RUN.parent)],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_refused_before_the_work(command, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("kept")
    below = file / "sub" / "folder"
    refusals = {file: f"{file}: is not a folder", below: f"{below}: {file} is not a folder"}
    for folder, message in refusals.items():
        assert main([command, *COMMANDS[command], "-o", str(folder)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == f"reports: {message}\n"
    assert file.read_text() == "kept"


def test_the_default_folder_is_checked_as_well(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plots").write_text("")
    assert main(["matrix", str(RUN)]) == 2
    assert capsys.readouterr().err == "reports: plots: is not a folder\n"


def test_a_link_to_a_folder_is_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    require_folder(tmp_path / "link" / "new")
