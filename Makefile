# The two commands a newcomer needs: `make demo` and `make test`. Both set up .venv from nothing.
PYTHON ?= python3
BIN := .venv/bin
# The GPU set if an NVIDIA driver answers, otherwise the CPU set; REQUIREMENTS=... overrides.
REQUIREMENTS ?= $(if $(shell nvidia-smi -L 2>/dev/null),requirements.txt,requirements-cpu.txt)

# What `make test-fast` runs, less what trains: about a minute of CPU time together.
FAST := tests/test_readmes.py tests/test_fuzz.py \
  $(addprefix tests/common/,test_calibration.py test_config.py test_files.py test_listing.py test_metrics.py test_outcomes.py test_precision.py test_words.py) \
  $(addprefix tests/slurm/,test_again.py test_plan.py test_sweeps.py test_job.py test_status.py test_submissions.py) tests/results/test_tables.py \
  tests/tasks/test_every_task.py $(wildcard tests/tasks/test_*_report.py)

# Tests in as many processes as the machine has processors, up to 4: each takes 2 GB. One that has no more to do takes
# over half of what another has left, from the end; files stay together as far as that goes, and so do their fixtures.
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 4 --dist worksteal
QUICK := --xla_backend_optimization_level=0 # compiles faster, and runs slower

.PHONY: help demo test test-fast test-slurm test-chaos chromium test-page test-mutations test-fuzz lint format lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: .venv/installed ## set up, then train cifar_phased on the embedded digits (1 to 3 minutes of training)
	$(BIN)/python tasks/cifar_phased/train.py --preset demo

test: lint ## set up, lint, and run every test; the loop and the augmentation on JAX too
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)
	KERAS_BACKEND=jax XLA_FLAGS=$(QUICK) $(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/common/test_trainer.py tests/common/test_objective.py tests/common/test_optimizers.py tests/common/test_augment.py tests/common/test_together.py

test-fast: lint ## set up, lint, and run the tests that train nothing, before each commit (under 2 minutes)
	$(BIN)/python -m pytest -m "not trains" $(FAST)

test-slurm: .venv/installed-dev ## test the launcher on a private SLURM cluster (as root; installs slurm-wlm, munge)
	$(BIN)/python tests/slurm/cluster.py run --max-array 3 -- $(BIN)/python -m pytest tests/slurm/test_cluster.py

test-chaos: .venv/installed-dev ## break that cluster at random while runs go on (as root; some ten minutes)
	$(BIN)/python tests/slurm/chaos.py 20 30 --stand-in

chromium: ## install Chromium if it is missing (as root): with it, `make test` tests the pages too
	command -v chromium > /dev/null || { apt-get update -q && apt-get install -y -q chromium; }

test-page: .venv/installed-dev chromium ## test the pages in Chromium
	$(BIN)/python -m pytest -m browses tests/results/test_page.py tests/common/test_run_page.py

test-mutations: .venv/installed-dev ## damage every file that the tools read, in 10,000 ways (a quarter of an hour)
	$(BIN)/python tests/mutations.py --count 10000

test-fuzz: .venv/installed-dev ## 1,000 random command lines for the commands (a minute)
	$(BIN)/python tests/fuzz.py --count 1000

lint: .venv/installed-dev ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/installed-dev ## pin again from pyproject.toml: requirements.txt, -cpu, -dev
	$(BIN)/uv pip compile -q --upgrade --universal pyproject.toml --extra cpu -o requirements-cpu.txt
	$(BIN)/uv pip compile -q --upgrade --universal pyproject.toml --extra dev -c requirements-cpu.txt -o requirements-dev.txt
	$(BIN)/uv pip compile -q --upgrade --python-platform linux pyproject.toml --extra gpu -c requirements-cpu.txt -o requirements.txt

clean: ## remove .venv and caches; runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 to 3.13 is needed (make PYTHON=python3.12 ...)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: $(REQUIREMENTS) | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -r $(REQUIREMENTS)
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@
