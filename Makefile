# Type `make` for the list of targets.
#
# TORCH chooses torch, as a requirement for pip: TORCH="torch==2.13.0", or for a nightly build
#   TORCH="--pre torch --index-url https://download.pytorch.org/whl/nightly/cu130"
# Without TORCH an installed torch is kept. PYTHON is the interpreter that makes .venv.

PYTHON ?= python3
TORCH ?=
PLOTS ?= plots
RUN := .venv/bin/python -m
SAVED := .benchmarks/bench.json
# `make releases` gives each of TORCHES an environment of its own. For nightly builds, also set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/nightly/cpu for pip.
TORCHES ?= torch==2.9.1 torch==2.11.0 torch==2.12.1 torch==2.13.0
RUNS ?= .benchmarks/releases
GRID ?=
# What `make page` shows: these runs, and the trends over the runs in this folder.
PAGE_RUNS ?= reports/runs/h100/grid.json.gz reports/runs/h100/grid_d128_s4096.json.gz reports/runs/h100/grid_d128_s16384.json.gz
PAGE_HISTORY ?= reports/runs/releases_h100
CHROMIUM ?= chromium-headless-shell
export TORCH

.DEFAULT_GOAL := help
.PHONY: help setup bench test test-all lint releases page

help:
	@echo "make setup     make .venv and install requirements.txt"
	@echo "make bench     time every mask on this machine's GPU, else its CPU, and draw the results"
	@echo "               (CPU: about 8 min; H100 with all backends: about 13 min)"
	@echo "make test      the fast tests (about 7 min on 2 cores)"
	@echo "make test-all  the fast and the slow tests"
	@echo "make lint      ruff, mypy and the directions of imports"
	@echo "make releases  one grid under each torch of TORCHES, three processes each, and its trends"
	@echo "make page      write docs/index.html from PAGE_RUNS and PAGE_HISTORY, and its picture docs/page.png"
	@echo "All but releases take TORCH, for example TORCH=\"torch==2.13.0\"."

setup:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "maskbench needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": set PYTHON")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
ifneq ($(strip $(TORCH)),)
	@set -f; echo "pip install $$TORCH"; $(RUN) pip install --quiet --upgrade $$TORCH
endif
	$(RUN) pip install --quiet -r requirements.txt

# Cells that failed (pytest's status 1) do not keep the others from being drawn.
bench: setup
	@echo "make bench usually takes: CPU: about 8 min; H100 with all backends: about 13 min"
	@mkdir -p .benchmarks && rm -f $(SAVED)
	@$(RUN) pytest --benchmark-only --benchmark-autosave --benchmark-json=$(SAVED) \
	    --benchmark-columns=median,iqr,rounds; status=$$?; \
	if [ $$status -le 1 ]; then $(RUN) reports plots $(SAVED) -o $(PLOTS) || exit $$?; fi; \
	exit $$status

# pytest.ini deselects the slow tests.
test: setup
	@echo "make test usually takes about 7 min on 2 cores"
	$(RUN) pytest --benchmark-skip

test-all: setup
	$(RUN) pytest --benchmark-skip -m "not compile and not soak and not tune"

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) pytest --benchmark-skip -q tests/unit/test_imports.py

releases:
	@mkdir -p $(RUNS); set -e; for torch in $(TORCHES); do \
	    environment=.venv/$$torch; echo "$$torch: installing"; \
	    test -x $$environment/bin/python || $(PYTHON) -m venv $$environment; \
	    $$environment/bin/python -m pip install --quiet "$$torch" -r requirements.txt; \
	done; \
	for process in 1 2 3; do \
	    for torch in $(TORCHES); do \
	        environment=.venv/$$torch; \
	        echo "$$torch: process $$process of 3"; \
	        $$environment/bin/python -m pytest -q --benchmark-only --benchmark-columns=median $(GRID) \
	            --benchmark-json=$(RUNS)/$${torch##*=}_$$process.json > $(RUNS)/last.log \
	            || { tail -n 20 $(RUNS)/last.log; exit 1; }; \
	    done; \
	done; \
	$$environment/bin/python -m reports history $(RUNS) -o $(PLOTS)

# The picture shows the window's contents only. A palette of 64 colors keeps the file small.
page: setup
	$(RUN) reports page $(PAGE_RUNS) --history $(PAGE_HISTORY) -o docs
	$(CHROMIUM) --no-sandbox --hide-scrollbars --virtual-time-budget=5000 --window-size=1150,760 \
	    --screenshot=docs/page.png "file://$(CURDIR)/docs/index.html" 2> /dev/null
	.venv/bin/python -c 'from PIL import Image; i = Image.open("docs/page.png").convert("RGB"); \
	    i.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save("docs/page.png", optimize=True)'
