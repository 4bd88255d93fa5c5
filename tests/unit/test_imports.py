"""Which part of the code may import which. Imports have one direction and no cycle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 300

# The imports that each part may have. A module belongs to the part with the longest matching
# name. Modules of one part may import each other, but not in a cycle.
MAY_IMPORT = {
    "conftest": {"maskbench.plugin"},
    "maskbench": set(),
    "maskbench.masks": set(),
    "masks": {"maskbench.masks"},  # the catalogue
    "maskbench.attention": {"maskbench.masks"},  # the contract of a backend
    "maskbench.varlen": {"maskbench.attention", "maskbench.masks"},
    "maskbench.tuned_options": {"maskbench.whole_files"},
    "maskbench.backends": {
        *("maskbench.varlen", "maskbench.attention", "maskbench.masks"),
        "maskbench.tuned_options",
    },
    "maskbench.reference": {"maskbench.masks"},
    "maskbench.timing": set(),
    "maskbench.timing.statistics": set(),  # plain arithmetic: reports import it, too
    "maskbench.legacy_formulations": set(),
    "maskbench.journal": set(),  # the journal of a run: its text and its file
    "maskbench.plain_text": set(),
    "maskbench.whole_files": set(),
    "maskbench.repeated_keys": set(),
    "maskbench.records": set(),
    "maskbench.schema": {"maskbench.records"},
    "maskbench.saved_files": {"maskbench.records", "maskbench.plain_text"},
    "maskbench.reading": {
        *("maskbench.schema", "maskbench.saved_files", "maskbench.repeated_keys"),
        *("maskbench.records", "maskbench.plain_text", "maskbench.legacy_formulations"),
        "maskbench.journal",
    },
    "maskbench.supervision": {"maskbench.journal", "maskbench.records"},
    "maskbench.suite": {
        *("maskbench.timing", "maskbench.timing.statistics", "maskbench.reference"),
        *("maskbench.backends", "maskbench.backends.registry"),
        *("maskbench.attention", "maskbench.masks", "maskbench.records", "masks"),
        *("maskbench.journal", "maskbench.supervision", "maskbench.whole_files"),
        *("maskbench.tuned_options", "maskbench.schema"),
    },
    "maskbench.plugin": {
        *("maskbench.suite", "maskbench.supervision", "maskbench.timing", "maskbench.reference"),
        *("maskbench.backends", "maskbench.backends.registry"),
        *("maskbench.attention", "maskbench.masks", "maskbench.records", "masks"),
    },
    "maskbench.backends.registry": {"maskbench.attention"},  # facts that need no library
    "reports": {
        *("maskbench.reading", "maskbench.records", "maskbench.plain_text", "masks"),
        *("maskbench.backends.registry", "maskbench.timing.statistics", "maskbench.whole_files"),
        *("maskbench.saved_files", "maskbench.tuned_options"),
    },
}
# Parts whose modules may import the modules of a part inside them.
CONTAINS = {
    "maskbench.timing": {"maskbench.timing.statistics"},
    "maskbench.backends": {"maskbench.backends.registry"},
}


def module_name(path: Path) -> str:
    """`maskbench/timing/__init__.py` to "maskbench.timing"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def production_files() -> list[Path]:
    packages = (path for top in ("maskbench", "reports") for path in (ROOT / top).rglob("*.py"))
    return sorted([*packages, ROOT / "masks.py", ROOT / "conftest.py"])


FILES = {module_name(path): path for path in production_files()}


def is_ours(name: str) -> bool:
    return name.split(".")[0] in {"maskbench", "masks", "reports", "tests", "conftest"}


def imported_modules(source: str, package: str) -> Iterator[str]:
    """The project's modules that `source` imports, at its top or inside a function.

    `package` is what a relative import starts from.
    """
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *([node.module] * bool(node.module))])
            # `from package import name` imports a module if there is one of that name
            names = [
                inner if (inner := f"{base}.{alias.name}") in FILES else base
                for alias in node.names
            ]
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytest_plugins"
            for target in node.targets
        ):
            plugins = ast.literal_eval(node.value)
            names = [plugins] if isinstance(plugins, str) else list(plugins)
        yield from filter(is_ours, names)


def part_of(module: str) -> str | None:
    """The part of `MAY_IMPORT` that a module belongs to."""
    parts = [part for part in MAY_IMPORT if f"{module}.".startswith(f"{part}.")]
    # `maskbench` itself is the package's __init__; a new module in it needs a line in the table
    parts = [part for part in parts if part != "maskbench" or module == "maskbench"]
    return max(parts, key=len, default=None)


def wrong_imports(module: str, source: str, package: str) -> list[str]:
    """The imports of `module` that the table does not allow, one line each."""
    part, wrong = part_of(module), []
    if part is None:
        return [f"{module} belongs to no part in MAY_IMPORT"]
    allowed = {part} | MAY_IMPORT[part] | CONTAINS.get(part, set())
    for other in imported_modules(source, package):
        if part_of(other) not in allowed:
            wrong.append(f"{module} imports {other}, but {part} imports {sorted(MAY_IMPORT[part])}")
    return wrong


def package_of(module: str) -> str:
    is_package = FILES[module].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


def test_imports_have_one_direction():
    wrong = [
        line
        for module, path in FILES.items()
        for line in wrong_imports(module, path.read_text(encoding="utf-8"), package_of(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles():
    graph = {
        module: set(imported_modules(path.read_text(encoding="utf-8"), package_of(module)))
        for module, path in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_the_parts_have_no_cycle():
    """If two parts could import each other, the table itself would allow a cycle."""
    TopologicalSorter(MAY_IMPORT).prepare()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("maskbench.masks.base", "from maskbench.varlen import ops"),
        ("maskbench.masks.base", "from ..varlen import ops"),
        ("maskbench.timing.clock", "def f():\n    import maskbench.suite.cell"),
        ("maskbench.timing.clock", "import tests.unit.fake_gpu"),
        ("maskbench.records", "from maskbench.suite import cell"),
        ("maskbench.backends.dense", "from maskbench import reference"),
        ("maskbench.backends.registry", "from maskbench.backends import dense"),
        ("maskbench.suite.cell", "from reports import runs"),
        ("reports.runs", "from maskbench.timing import clock"),
        ("reports.runs", "from maskbench.backends.flex import bind"),
        ("masks", "from maskbench.records import Phase"),
        ("maskbench.something_new", ""),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert len(wrong_imports(module, source, module.rpartition(".")[0])) == 1


@pytest.mark.parametrize("module", FILES)
def test_modules_are_short(module):
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{FILES[module].relative_to(ROOT)} has {lines} lines"
