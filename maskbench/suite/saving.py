"""What the suite adds to the JSON that pytest-benchmark saves."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from maskbench.backends.registry import BACKENDS


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def software_versions() -> dict[str, object]:
    """torch's build, and the version of each backend's package, with "-" as "_"."""
    packages = dict.fromkeys(["triton", *(s.package for s in BACKENDS.values() if s.package)])
    return {
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **{name.replace("-", "_"): package_version(name) for name in packages},
    }


def untimed_run(config: pytest.Config) -> dict[str, object]:
    """What pytest-benchmark would save of a run that timed nothing, made with its hooks."""
    run: dict[str, object] = {"datetime": datetime.now(timezone.utc).isoformat()}
    for part in ("machine_info", "commit_info"):
        run[part] = getattr(config.hook, f"pytest_benchmark_generate_{part}")(config=config)
        update = getattr(config.hook, f"pytest_benchmark_update_{part}")
        update(config=config, **{part: run[part]})
    run["benchmarks"] = []
    config.hook.pytest_benchmark_update_json(config=config, benchmarks=[], output_json=run)
    return run


def json_target(config: pytest.Config) -> Path | None:
    """The file of --benchmark-json. Up to pytest-benchmark 5.2 the option is an open file."""
    option = config.option.benchmark_json
    return Path(getattr(option, "name", option)) if option else None


def save_untimed_run(config: pytest.Config, path: Path) -> None:
    path.write_text(json.dumps(untimed_run(config), indent=4))
