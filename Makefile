# The front door. Needs Python 3.11 or newer and make; everything it installs goes into .venv.
#
#   make demo     replay the bundled trace on four H100: a report on screen and in out/demo
#   make test     build the wheel and run the tests against it
#   make lint     ruff and mypy
#   make bench    how fast the simulator is, in CPU seconds: a table, and out/bench.json (a C compiler helps)
#   make validate recorded runs of real engines against their simulation, into out/validate (needs SERVECAST_DATA)
#   make parity   Vidur's four reference runs on its own operator tables, into OUT (needs SERVECAST_DATA)
#   make compiled      the engine compiled by mypyc, into build/compiled, and what must hold for it (needs a C compiler)
#   make bench-long    ten million requests, killed and resumed (half an hour)
#   make bench-scale   how its cost grows with requests, replicas, batch and cached blocks
#   make studies  published results of the literature, replayed: a table a study in out/studies (an hour)
#   make gpu      on a machine with a GPU: kernel tests, benchmarks, profiles, closed loop; 10 minutes, run it again
#   make gpu-wheels    what that needs beside torch and triton, where the machine has no network: into out/wheels
#   make notebooks    run every notebook from a clean kernel (some minutes)
#   make goldens  accept what every policy does now (tests/goldens), after a change that is meant
#   make docs     write docs/policies, a page a policy, out of the registry
#   make clean    remove what make made

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
WHEEL := build/wheel# what `make test` tests: the wheel, unpacked

# Our folders must never be found as top-level modules: Python 3.15 has a `profiling` of its own.
export PYTHONSAFEPATH := 1
ifneq ($(wildcard ../shared/data/.),)
export SERVECAST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help demo test lint notebooks docs goldens bench bench-scale validate parity studies gpu gpu-wheels clean
help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/core
	$(BIN)/servecast simulate --trace traces/samples/chat-sample.jsonl.gz --plan configs/plans/default.yaml \
		--slo chat --out out/demo --plots

test: $(VENV)/test
	rm -rf build
	$(PIP) wheel --no-deps --wheel-dir build/dist .
	$(PIP) install --no-deps --target $(WHEEL) build/dist/*.whl
	PYTHONPATH=$(abspath $(WHEEL)) SERVECAST_WHEEL=$(abspath $(WHEEL)) $(BIN)/pytest -n 2 -m "not slow"

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/notebook
	$(BIN)/python notebooks/run.py

goldens: $(VENV)/core
	$(BIN)/servecast slo accept tests/goldens/slos.yaml

docs: $(VENV)/core
	$(BIN)/servecast policies --write docs/policies

# Where there is a C compiler the engine is compiled, as ADR 11 has it, and measured beside the interpreted one.
COMPILED := build/compiled
bench: $(VENV)/core
	@if command -v cc >/dev/null; then $(MAKE) $(COMPILED)/.made; else echo "no C compiler: the interpreted engine alone"; fi
	PYTHONPATH=$(abspath $(COMPILED)) $(BIN)/python bench/bench.py

compiled: $(COMPILED)/.made $(VENV)/test
	PYTHONPATH=$(abspath $(COMPILED)) $(BIN)/pytest -n 2 -m "not slow" tests/sim/test_three_engines.py

$(COMPILED)/.made: bench/compile.py $(wildcard sim/*.py sim/*/*.py costmodels/*.py) | $(VENV)/core
	rm -rf $(COMPILED) build/compiled-dist
	$(PIP) wheel --no-deps --wheel-dir build/compiled-dist .
	$(PIP) install --no-deps --target $(COMPILED) build/compiled-dist/*.whl
	$(PIP) install "mypy>=1.11" setuptools
	$(BIN)/python bench/compile.py $(COMPILED)
	@touch $@

bench-long: $(VENV)/core
	$(BIN)/python bench/long.py

bench-scale: $(VENV)/core
	$(BIN)/python bench/scale.py

# What every recorded run must keep; docs/accuracy.md has the figures.
LIMITS := e2e_from_arrival.mean=2% e2e_from_arrival.p50=3% e2e_from_arrival.p90=3% e2e_from_arrival.p99=3% \
	tpot.mean=2% tpot.p50=3% tpot.p90=3% tpot.p99=3% ttft_from_arrival.mean=4% ttft_from_arrival.p50=6% \
	e2e_from_arrival.mean_abs=3%

validate: $(VENV)/core
	@missed=0; for run in $(SERVECAST_DATA)/vllm-runs/*/; do \
		$(BIN)/servecast validate $$run --out out/validate/$$(basename $$run) --noise 0.005 \
			$(addprefix --max-error ,$(LIMITS)) || missed=1; echo; done; exit $$missed

OUT ?= out/parity
parity: $(VENV)/core
	$(BIN)/python -m servecast.profiling.parity $(SERVECAST_DATA)/vidur-parity $(OUT)

STUDIES := $(patsubst bench/studies/%.py,%,$(wildcard bench/studies/*.py))
studies: $(VENV)/core
	mkdir -p out/studies
	for study in $(STUDIES); do $(BIN)/python bench/studies/$$study.py | tee out/studies/$$study.txt; done

# Not in .venv: torch and triton are large, and a machine with a GPU has its own.
GPU_PYTHON ?= python3
gpu:
	$(GPU_PYTHON) bench/gpu.py --out out/gpu

gpu-wheels:
	$(GPU_PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --dest out/wheels simpy

clean:
	rm -rf $(VENV) build out *.egg-info .*_cache .hypothesis

$(VENV)/core: pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@touch $@

$(VENV)/test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test]'
	@touch $(VENV)/core $@

$(VENV)/notebook: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[notebook]'
	@touch $(VENV)/core $@

$(BIN)/python:
	$(if $(PYTHON),,$(error Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3))
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
