"""Parts of documents that a command writes, between two markers, amid prose that it keeps.

<!-- begin: reports releases -->
(this text is replaced)
<!-- end: reports releases -->
"""

from __future__ import annotations

from pathlib import Path

from maskbench.records import UnreadableRun
from reports.output_files import write_whole


def split_at_markers(path: Path, name: str) -> tuple[str, str, str]:
    """The text of a document up to the begin marker, between the markers, and from the end marker.

    Raises
    ------
    UnreadableRun
        If the document has not exactly one pair of markers with that name, in the right order.
    OSError
        If it cannot be read.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    try:
        document = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableRun(f"{path}: is not a text in UTF-8") from error
    if document.count(begin) != 1 or document.count(end) != 1:
        raise UnreadableRun(f"{path}: must have the markers {begin!r} and {end!r}, once each")
    before, _, rest = document.partition(begin)
    generated, found, after = rest.partition(end)
    if not found:
        raise UnreadableRun(f"{path}: has the marker {end!r} before {begin!r}")
    return before + begin, generated, end + after


def generated_part(path: Path, name: str) -> str:
    """The text between the markers. Raises as `split_at_markers`."""
    return split_at_markers(path, name)[1].strip()


def replace_generated(path: Path, name: str, text: str) -> Path:
    """Replace the text between the markers, and return the path. Raises as `split_at_markers`.

    The rest of the document is kept. If it cannot be written, it stays as it is.
    """
    before, _, after = split_at_markers(path, name)
    return write_whole(path, f"{before}\n\n{text.strip()}\n\n{after}")
