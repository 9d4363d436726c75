# `make` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
MODEL ?= st_vgg_ssd_16_synth
# What the demo runs, untrained, where MODEL names weights that this version does not ship.
FALLBACK ?= st_vgg_ssd_16
# launch_testing's pytest plugins, part of every ROS installation, break plain pytest runs.
# A process that dies is not replaced: the run ends with the name of its test, where it would wait in vain for the rest.
PYTEST := $(PY) -m pytest -p no:launch_testing -p no:launch_ros --max-worker-restart=0
# Test files at a time. Each process takes up to 3 GB; arithmetic has one thread in each.
JOBS ?= 2
SOURCES := snn_perception plugins tests tools launch examples setup.py

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow lint format demo bench-events bench-training bench-families bench-engine bench-node bench-native fuzz clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  \1\t/' | expand -t 16
	@echo
	@echo "  RECORDING=path   recording for 'make demo' (relative to this folder)"
	@echo "  MODEL=name       checkpoint, shipped weights or preset for 'make demo' (default: $(MODEL))"
	@echo "  PYTHON=path      interpreter for 'make setup' (3.10 to 3.13)"

setup: ## make or update .venv: packages, ROS 2 where it is missing, messages
	@PYTHON='$(PYTHON)' tools/setup_env.sh

test: setup lint ## lint, type check and the fast tests
	OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist loadfile

test-slow: setup ## the tests that take minutes
	OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS) --dist loadfile -m slow --timeout=1800

lint: setup ## ruff and mypy
	$(PY) -m ruff check $(wildcard $(SOURCES))
	$(PY) -m ruff format --check $(wildcard $(SOURCES))
	$(PY) -m mypy

format: setup ## rewrite the sources in the project's format
	$(PY) -m ruff check --fix-only $(wildcard $(SOURCES))
	$(PY) -m ruff format $(wildcard $(SOURCES))

demo: setup ## play a drive through the node; detections, table and video in demo/
	$(PY) -m snn_perception.ros.demo --model '$(MODEL)' --fallback '$(FALLBACK)' --output demo $(if $(RECORDING),--recording '$(RECORDING)')

bench-events: setup ## measure the event path: docs/benchmarks/events.md
	$(PY) tools/bench_events.py -o docs/benchmarks/events.md

bench-training: setup ## measure training steps: docs/benchmarks/training.md
	$(PY) tools/bench_training.py -o docs/benchmarks/training.md

bench-families: setup ## measure a window of every family: docs/benchmarks/families.md
	$(PY) tools/bench_families.py -o docs/benchmarks/families.md

bench-node: setup ## measure the node beside its network: docs/benchmarks/node.md
	$(PY) tools/bench_node.py -o docs/benchmarks/node.md

bench-native: setup ## measure the native kernels: docs/benchmarks/native.md
	$(PY) tools/bench_native.py -o docs/benchmarks/native.md

bench-engine: setup ## measure every engine: docs/benchmarks/engine.md
	$(PY) tools/bench_engine.py -o docs/benchmarks/engine.md

fuzz: setup ## a million damaged inputs for every decoder and format (hours); docs/fuzzing.md
	$(PY) tools/fuzz.py -o docs/fuzzing.md

clean: ## remove builds, caches and demo results (.venv stays)
	rm -rf build install log dist demo *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .numba_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0r rm -rf
