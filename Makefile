# make            set up: a virtual environment in .venv, the build, the installation
# make test       set up, then run the tests            (PYTEST_ARGS="tests/bench -q" to choose)
# make bench      set up, then run the quick benchmark  (BENCH_ARGS="--suite events" to choose)
# make lint       ruff, mypy, and the C code with -Wall -Wextra -Werror
# make dev        as make, but editable: a changed source is rebuilt at the next import
# make clean      remove what make made
#
# PYTHON=/path/to/python3 names another interpreter (3.11 or newer), CC another compiler.

SHELL := /bin/sh
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all test bench lint dev clean help preflight FORCE

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PYTHON := $(or $(strip $(PYTHON)),python3)

VENV := .venv
BUILD := build
BIN := $(VENV)/bin
PIP := env PATH="$(CURDIR)/$(BIN):$(PATH)" CC="$(CC)" PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
# Two makes at once must not build in one folder.
ALONE := $(if $(shell command -v flock),flock $(BUILD)/lock)
MESONPY := --no-build-isolation --config-settings=build-dir=$(BUILD)/wheel
PYTEST_ARGS ?=
BENCH_ARGS ?= --quick

PRODUCTS := shmq/_native*.so stackcore/abi/_abi*.so stackcore/vcl/_vcl*.so bench/native/shmq-ref
PACKAGES := shmq stackcore workloads bench reports
SOURCES := $(sort $(shell find $(PACKAGES) build-aux meson.build -type f \
	\( -name '*.py' -o -name '*.pyi' -o -name 'py.typed' -o -name '*.[ch]' -o -name '*.j2' -o -name '*.css' \
	-o -name '*.js' -o -name 'meson.build' \) -not -path '*/__pycache__/*' -not -path 'reports/latest/*' 2>/dev/null))

all: $(BUILD)/installed

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'

preflight:
	@sh build-aux/preflight.sh "$(PYTHON)" "$(CC)"

# The interpreter, the compiler, the headers and /dev/shm are looked at before anything is made.
$(VENV)/requirements: pyproject.toml build-aux/requirements.py | preflight
	@echo "setting up $(VENV) (build tools, numpy, numba, test tools)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python build-aux/requirements.py test > $@.new
	@$(PIP) install -qq -r $@.new
	@mv $@.new $@

# Rewritten only when a file came or went: a removed source is a reason to build, too.
$(BUILD)/sources: FORCE
	@mkdir -p $(BUILD)
	@printf '%s\n' $(SOURCES) | cmp -s - $@ || printf '%s\n' $(SOURCES) > $@

$(BUILD)/installed: $(VENV)/requirements $(BUILD)/sources $(SOURCES) pyproject.toml README.md | preflight
	@echo "building and installing"
	@$(ALONE) $(PIP) install -qq --no-deps --force-reinstall $(MESONPY) .
	@$(call copy_products)
	@touch $@

# The checkout itself is importable, too: the compiled files are put beside their sources. Each is replaced by a
# rename, because a process may have the old one mapped.
define copy_products
set -e; cd $(BUILD)/wheel && for f in $(PRODUCTS); do \
	if [ -f "$$f" ]; then cp "$$f" "../../$$f.new" && mv -f "../../$$f.new" "../../$$f"; fi; done
endef

dev: $(VENV)/requirements | preflight
	@rm -f $(BUILD)/installed
	@$(PIP) install -qq --no-deps --no-build-isolation --config-settings=build-dir=$(BUILD)/editable --editable .

test: all
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: all
	$(BIN)/stackcore bench -o reports/latest $(BENCH_ARGS)

lint: $(VENV)/requirements
	$(BIN)/ruff check .
	$(BIN)/mypy
	@test -f $(BUILD)/lint/build.ninja || CC="$(CC)" $(BIN)/meson setup $(BUILD)/lint -Dwerror=true > /dev/null
	@PATH="$(CURDIR)/$(BIN):$(PATH)" $(BIN)/meson setup --reconfigure $(BUILD)/lint > /dev/null
	PATH="$(CURDIR)/$(BIN):$(PATH)" $(BIN)/meson compile -C $(BUILD)/lint

clean:
	rm -rf $(VENV) $(BUILD) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f $(PRODUCTS)
	find $(PACKAGES) tests build-aux -name __pycache__ -type d -exec rm -rf {} + 2>/dev/null || true
