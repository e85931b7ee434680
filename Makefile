# make env | demo | test | test-slow | check | ui | bench | base-models
# Needs: make, Python 3.11, pip. Everything else comes into .venv.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 3000
READY  := $(VENV)/.ready

# xFormers has wheels for Linux x86-64 alone.
EXTRAS := $(shell test "$$(uname -sm)" = "Linux x86_64" && echo dev,xformers || echo dev)

# Six minutes in all on two cores, with nothing but this repository.
QUICK := code_location fitted_plates generation plates read_images sensor_tick streetscape training_step unify

# Quiet and offline: no telemetry, no update check, no download of weights, no warning that a user can't act on.
export PYTHONWARNINGS             := ignore::Warning
export DAGSTER_DISABLE_TELEMETRY  := 1
export DAGSTER_DG_UPDATE_CHECK_ENABLED := 0
export HF_HUB_OFFLINE             := 1
export HF_HUB_DISABLE_TELEMETRY   := 1
export NO_ALBUMENTATIONS_UPDATE   := 1
export TOKENIZERS_PARALLELISM     := false
export OMP_NUM_THREADS            ?= $(shell nproc 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow check ui bench base-models

help:
	@echo "make env          makes .venv with the tested versions"
	@echo "make demo         raw data to scorecard on two CPU cores; ends with the table and the report's path"
	@echo "make test         the fast tests            make test-slow    all of them"
	@echo "make check        format, lint, types, layers, definitions"
	@echo "make ui           Dagster on http://127.0.0.1:3000 (PORT=3001 takes another)"
	@echo "make bench        the quick measurements of benchmarks/, six minutes; names the others"
	@echo "make base-models  makes the shipped weights anew"

env: $(READY)

# insightface and easyocr bring the GUI and the headless build of OpenCV into one folder, and the GUI build needs libGL:
# both go, then the headless one comes back alone.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt opencv-python-headless
	touch $(READY)

demo: $(READY)
	$(BIN)/dagster job execute -m anony_pipeline.definitions -j planb -c configs/runs/demo.yaml
	@$(BIN)/anony scorecard --config configs/demo.yaml

# A file's tests share what they prepare, so they stay in one process.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=logical --maxprocesses=4 --dist=loadfile

test-slow: $(READY)
	HYPOTHESIS_PROFILE=new $(BIN)/python -m pytest -q -m "slow or not slow"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dagster definitions validate -w workspace.yaml

# Dagster itself would go on without its pages, as a second daemon beside the first one.
ui: $(READY)
	@$(BIN)/python -c "import socket; socket.create_server(('127.0.0.1', $(PORT))).close()" 2>/dev/null || \
	  { echo "port $(PORT) is taken, perhaps by another make ui: end it, or name a free one: make ui PORT=3001"; exit 1; }
	$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

bench: $(READY)
	@for name in $(QUICK); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done
	@echo "Not run, for they take long, or need a checkpoint, photographs or a GPU (their first lines say which):"
	@echo "$(filter-out $(QUICK),$(basename $(notdir $(wildcard benchmarks/*.py))))"

base-models: $(READY)
	$(BIN)/dagster job execute -m anony_pipeline.definitions -j base_models
