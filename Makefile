# gemkit: everything runs in .venv, which `make install` makes.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_PYTHON := $(BIN)/python

.PHONY: install demo test torture fuzz emulate coverage mutants lint format docs bench experiments experiments-gpu release clean

install: $(VENV)/installed ## make .venv with gemkit and what its tests need

$(VENV)/installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "gemkit needs Python 3.11 or newer, and $(PYTHON) is not installed: install it, or name one with: make install PYTHON=/path/to/python3.11" >&2; exit 2; }
	@command -v git >/dev/null || { echo "gemkit needs git, which is not installed" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gemkit needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1): name a newer one with: make install PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "this Python has no venv module: install it (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@echo "installing gemkit and its packages into $(VENV) (a few minutes, about 7 GB)"
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN_PYTHON) -m pip install --disable-pip-version-check --progress-bar on -e '.[test]'
	@touch $@
	@echo "installed into $(VENV)"

demo: install ## search, train, export and measure networks for the digits: under 5 minutes on 2 cores
	$(BIN)/gemkit run --data digits --out runs/demo --resume

test: install ## the whole test suite, under 10 minutes on 2 cores
	OMP_NUM_THREADS=1 $(RUN_PYTHON) -m pytest -q -n 2

torture: install ## 60 kills at random moments, each followed by a look at every file
	OMP_NUM_THREADS=1 $(RUN_PYTHON) -m pytest -q -n 0 tests/whole/test_torture.py --kills 60

fuzz: install ## 20,000 damaged inputs for every reader
	OMP_NUM_THREADS=1 $(RUN_PYTHON) -m pytest -q -n 2 tests/whole/test_readers.py --inputs 20000

emulate: install ## C projects on Cortex-M, files and kit on aarch64, under QEMU; on Debian: apt install gcc gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm qemu-user-static debootstrap
	OMP_NUM_THREADS=1 PYTHONPATH=tests/emulated $(RUN_PYTHON) -m pytest -q tests/emulated

coverage: install ## the suite again, with the share of lines it runs in each module
	OMP_NUM_THREADS=1 $(RUN_PYTHON) -m pytest -q -n 2 --cov --cov-report=term --cov-fail-under=90

mutants: install ## which small faults in the core do its tests not see? MODULES="gemkit/cost.py", COUNT=100 of each
	OMP_NUM_THREADS=1 $(RUN_PYTHON) tests/mutate.py $(MODULES) --count $(or $(COUNT),100)

lint: install ## ruff (lint and format) and mypy on the installed package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed
	$(RUN_PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --target build/typed .
	$(RUN_PYTHON) -m mypy build/typed/gemkit

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

CORE := $(patsubst gemkit/%.py,gemkit.%,$(filter-out %/__init__.py,$(wildcard gemkit/*.py)))

docs: install ## the functions' reference, from their docstrings, in build/docs
	$(RUN_PYTHON) -m pdoc --docformat google --output-directory build/docs gemkit $(CORE) gemkit.search gemkit.export gemkit.app

bench: install ## ours beside a reference, under 15 minutes; writes build/bench.json
	$(RUN_PYTHON) tests/benchmarks/rows.py

# Arguments | expected time and purpose, in order of value. Each goes on where
# it was stopped, and is skipped where its data is not there. Times are for two free cores. Those of latency want the machine to themselves.
EXPERIMENTS := \
  "compare.py --workers 2 | 2 hours: found, random and known networks, one recipe" \
  "zoo.py | 4 hours, one core: gemnet-tiny and gemnet-small" \
  "fidelity.py --workers 2 | 45 minutes: short trainings against full ones" \
  "pool.py --workers 2 | 1 hour: cells trained once, for search_quality.py" \
  "search_quality.py | 10 minutes: strategies on the pool" \
  "search_live.py | 1 to 2 hours: searches of the digits beside controls" \
  "latency.py | 10 minutes: measured twice beside two neighbours, and predicted" \
  "short_kits.py | 5 minutes: 20 cells of a table, another device as prior" \
  "latency_search.py | 20 minutes, alone" \
  "deliveries.py | 10 minutes: limits kept beside two neighbours" \
  "optimize.py | 30 minutes, alone" \
  "ablation.py --workers 2 | searches on tables" \
  "../tests/benchmarks/bench_tables.py | 10 minutes: a table of 423,624 cells" \
  "ablation_report.py | a minute" \
  "embedding.py | a few minutes" \
  "page.py | 15 minutes, alone, with Playwright and Chromium" \
  "../tests/benchmarks/rows.py --keep | 15 minutes, alone: the table of make bench" \
  "results_page.py | writes docs/results.md from all of these" \
  "zoo.py --only base | 6 hours, one core"

experiments: install ## long, resumable runs in order of value; results under results/
	@for run in $(EXPERIMENTS); do echo "experiments/$$run"; OMP_NUM_THREADS=1 $(RUN_PYTHON) experiments/$${run%|*} || exit 1; done

# Hours; the searches of the second run on the processor.
experiments-gpu: install ## GPU: training speed, long trainings of many networks, the zoo, the comparison at 40 M MACs with the full recipe (downloads CIFAR-10)
	$(RUN_PYTHON) experiments/gpu.py
	$(RUN_PYTHON) experiments/long_trainings.py
	$(RUN_PYTHON) experiments/zoo.py --device cuda --only tiny --only small --only base --anew
	$(BIN)/gemkit compare --data cifar10 --max-macs 40M --share 0.8 --seeds 3 --recipe full --device cuda --out runs/compare-40M --json results/compare-40M.json
	$(RUN_PYTHON) experiments/results_page.py

# PYTHON=python3.13 tests another Python, RESOLUTION=lowest-direct the oldest packages that are
# supported.
RESOLUTION ?= highest
RELEASE := build/release

release: install ## wheel and sdist in dist/; the tests of the one pass in a new environment with the other
	rm -rf dist build/lib $(RELEASE)
	$(RUN_PYTHON) -m pip install --quiet --disable-pip-version-check build uv
	$(RUN_PYTHON) -m build --outdir dist .
	mkdir -p $(RELEASE)
	tar xzf dist/gemkit-*.tar.gz -C $(RELEASE) --strip-components 1
	$(BIN)/uv venv --quiet --python $(PYTHON) $(RELEASE)/.venv
	$(BIN)/uv pip install --quiet --python $(RELEASE)/.venv --resolution $(RESOLUTION) --requirements pyproject.toml --extra test
	$(BIN)/uv pip install --quiet --python $(RELEASE)/.venv --no-deps dist/gemkit-*.whl
	cd $(RELEASE) && PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 .venv/bin/pytest -q -n 2

clean:
	rm -rf build dist *.egg-info
