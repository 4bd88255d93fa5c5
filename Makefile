# make bench    set up, measure every mask on this machine's GPU (or CPU), draw the pictures
# make test     set up, pass the suite's own tests
# make lint     set up, ruff
# make releases the same grid under each torch of TORCHES, three fresh processes each, in turn, and its trends
# TORCH chooses torch, as pip would have it: TORCH="torch==2.13.0", or a nightly,
#   TORCH="--pre torch --index-url https://download.pytorch.org/whl/nightly/cu130"
# Without it an installed torch is left alone. PYTHON is the Python that makes .venv.

PYTHON ?= python3
TORCH ?=
PLOTS ?= plots
RUN := .venv/bin/python -m
SAVED := .benchmarks/bench.json
# Of make releases: each in an environment of its own. For nightlies set pip's own
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/nightly/cpu as well.
TORCHES ?= torch==2.9.1 torch==2.11.0 torch==2.12.1 torch==2.13.0
RUNS ?= .benchmarks/releases
GRID ?=
export TORCH

.PHONY: bench test lint releases setup

setup:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "maskbench needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": set PYTHON")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
ifneq ($(strip $(TORCH)),)
	@set -f; echo "pip install $$TORCH"; $(RUN) pip install --quiet --upgrade $$TORCH
endif
	$(RUN) pip install --quiet -r requirements.txt

# Pictures are drawn of what was timed though some cells failed (pytest's status 1).
bench: setup
	@mkdir -p .benchmarks && rm -f $(SAVED)
	@$(RUN) pytest --benchmark-only --benchmark-autosave --benchmark-json=$(SAVED) \
	    --benchmark-columns=median,iqr,rounds; status=$$?; \
	if [ $$status -le 1 ]; then $(RUN) reports plots $(SAVED) -o $(PLOTS) || exit $$?; fi; \
	exit $$status

test: setup
	$(RUN) pytest --benchmark-skip

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .

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
