# Every target makes the environment it needs with uv, from the hashed pins in requirements/. Needs Python 3.11 or 3.12.
#
#   make serve      the service on the embedded demo bundle (PORT=8000, ARGS='--bundle DIR' ...)
#   make test       the tests, but those marked slow, browser or docker (ARGS='-k name' WORKERS=2 ...)
#   make test-all   every test; one that needs what this machine lacks is skipped with its reason
#   make test-rest  only those that `make test` leaves out
#   make fuzz       bytes of strangers, guided by coverage (SECONDS=600 for each target, ARGS='images json ...')
#   make fuzz-api   20,000 requests made up from the OpenAPI document (ARGS='--requests 50000 --out results.json' ...)
#   make check      every check: format, lint, types, imports, tests
#   make lock       requirements/*.txt from pyproject.toml (UPGRADE=1 moves to the newest versions)
#   make demo       the embedded demo bundle, from nothing
#   make bench      photos end to end against the baseline (DATA=folder BACKBONE=file.onnx)
#   make audit      known vulnerabilities of the pins, where their database can be reached
#   make sbom       the bill of materials of a built image (IMAGE=d3gzsl-service SBOM=build/sbom.json)
#   make clean      environments, caches and build outputs away

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := check

PORT ?= 8000
WORKERS ?= 2
SECONDS ?= 600
ARGS ?=
IMAGE ?= d3gzsl-service
SBOM ?= build/sbom.json
PYTHONS := >=3.11,<3.13
REST := slow or browser or docker

DEV := .venv
SERVE := .venv-serve
SERVE_GPU := .venv-serve-gpu
BIN := $(DEV)/bin

# uv from the PATH, or one of our own. It is looked up again when a recipe runs, after the rule below has made it.
UV_HOME := .venv-uv
UV_ON_PATH := $(shell uv --version >/dev/null 2>&1 && command -v uv)
UV := $(or $(UV_ON_PATH),$(UV_HOME)/bin/uv)
UV_READY := $(if $(UV_ON_PATH),,$(UV_HOME)/bin/uv)
BOOTSTRAP := $(firstword $(shell command -v python3.11 python3.12 python3))

# An environment that happens to be active has no say in the ones made here. Bytecode is kept: without it every process
# of the tests compiles torch again, for ten seconds.
unexport VIRTUAL_ENV PYTHONPATH PYTHONDONTWRITEBYTECODE

# $(call install,ENVIRONMENT,PINS): an environment with exactly the pins and this checkout
define install
	$(UV) venv --quiet --allow-existing --no-project --python '$(PYTHONS)' $(1)
	$(UV) pip sync --python $(1) --require-hashes $(2)
	$(UV) pip install --quiet --python $(1) --no-deps --build-constraints requirements/build.txt --editable .
	touch $@
endef

.PHONY: serve serve-gpu test test-all test-rest fuzz fuzz-api check format lint types imports lock demo bench audit sbom clean dev

serve: $(SERVE)/.ready
	$(SERVE)/bin/d3gzsl serve --port $(PORT) $(ARGS)

serve-gpu: $(SERVE_GPU)/.ready
	$(SERVE_GPU)/bin/d3gzsl serve --port $(PORT) $(ARGS)

test: $(DEV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not ($(REST))' --numprocesses=$(WORKERS) --dist=loadfile $(ARGS)

test-rest: $(DEV)/.ready
	$(BIN)/python -m pytest -m '$(REST)' $(ARGS)

test-all: $(DEV)/.ready
	$(BIN)/python -m pytest $(ARGS)

fuzz: $(DEV)/.ready
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS)

fuzz-api: $(DEV)/.ready
	$(BIN)/python -m tests.fuzz.api $(ARGS)

check: lint types imports test

lint: $(DEV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEV)/.ready
	$(BIN)/mypy

imports: $(DEV)/.ready
	$(BIN)/lint-imports

format: $(DEV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: $(DEV)/.ready
	$(BIN)/d3gzsl-train demo --out service/demo_bundle --overwrite $(ARGS)

bench: $(DEV)/.ready
	$(if $(and $(DATA),$(BACKBONE)),,$(error make bench needs DATA=folder and BACKBONE=file.onnx))
	$(BIN)/python benchmarks/animals.py $(DATA) $(BACKBONE) --out benchmarks/results/$$(date +%F)-animals.json $(ARGS)

audit: $(DEV)/.ready
	$(BIN)/python docker/audit.py requirements/*.txt

sbom: $(DEV)/.ready
	mkdir -p $(dir $(SBOM))
	$(BIN)/python docker/sbom.py $(IMAGE) --out $(SBOM) $(ARGS)

dev: $(DEV)/.ready

$(DEV)/.ready: requirements/dev.txt requirements/build.txt pyproject.toml | $(UV_READY)
	$(call install,$(DEV),requirements/dev.txt)

$(SERVE)/.ready: requirements/service.txt requirements/build.txt pyproject.toml | $(UV_READY)
	$(call install,$(SERVE),requirements/service.txt)

$(SERVE_GPU)/.ready: requirements/service-gpu.txt requirements/build.txt pyproject.toml | $(UV_READY)
	$(call install,$(SERVE_GPU),requirements/service-gpu.txt)

$(UV_HOME)/bin/uv:
	$(or $(BOOTSTRAP),$(error no Python 3 on the PATH)) -m venv $(UV_HOME)
	$(UV_HOME)/bin/python -m pip install --quiet --require-hashes --only-binary :all: --requirement requirements/build.txt

# Development pins come first and bind the others, so that one version of each package is tested and served.
COMPILE := compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)
PINNED := --constraints requirements/dev.txt

lock: | $(UV_READY)
	$(UV) pip $(COMPILE) pyproject.toml --group dev --extra cpu --extra heic --extra postgres --extra signing --extra training --extra text --extra bulk --extra ray --extra tracing -o requirements/dev.txt
	$(UV) pip $(COMPILE) pyproject.toml --extra cpu --extra training --extra text --extra tensorboard $(PINNED) -o requirements/training.txt
	$(UV) pip $(COMPILE) pyproject.toml --extra cpu --extra postgres --extra signing --extra text --extra tracing $(PINNED) -o requirements/service.txt
	$(UV) pip $(COMPILE) pyproject.toml --extra gpu --extra postgres --extra signing --extra text --extra tracing $(PINNED) -o requirements/service-gpu.txt
	printf 'pillow-heif\npillow\n' | $(UV) pip $(COMPILE) - $(PINNED) -o requirements/heic.txt
	$(UV) pip $(COMPILE) --group build $(PINNED) -o requirements/build.txt

clean:
	rm -rf $(DEV) $(SERVE) $(SERVE_GPU) $(UV_HOME) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
