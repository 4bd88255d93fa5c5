"""maskbench: the pytest plugin, masks, backends and timing behind the benchmarks in tests/."""
