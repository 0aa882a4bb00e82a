# Equimood on a bare machine with Python 3.11, pip and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := workflow/scripts

.PHONY: run ask test test-cluster test-kills lint reference lock backbone prune clean help

help:            ## say what can be made
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /make \1\t/'

$(VENV)/runtime: envs/equimood.lock
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement $<
	@touch $@

$(VENV)/development: envs/dev.lock $(VENV)/runtime
	$(BIN)/pip install --quiet --require-hashes --requirement $<
	@touch $@

run: $(VENV)/runtime ## draw the demo's horses and run the whole study
	$(BIN)/snakemake --profile profiles/local

STUDY ?= config.yaml
ask: $(VENV)/runtime ## say what a study asks of a SLURM cluster: make ask STUDY=mystudy.yaml SITE=profiles/mysite
	@$(BIN)/python workflow/scripts/ask.py --profile profiles/slurm $(if $(SITE),--workflow-profile $(SITE)) --configfile $(STUDY)

test: $(VENV)/development ## run the tests
	$(BIN)/pytest

test-cluster: $(VENV)/development ## run the long tests of faults on a real SLURM (needs root)
	$(BIN)/pytest -m faults tests/cluster

test-kills: $(VENV)/development ## kill every long stage at more random moments
	$(BIN)/pytest -m faults tests/workflow

lint: $(VENV)/development ## check style, types, rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

reference: $(VENV)/runtime ## write config.yaml, its schema and docs/configuration.md from the models
	$(BIN)/python -m equimood.reference

LOCK := uv pip compile --quiet --generate-hashes --no-annotate --no-header --no-emit-index-url --python-version 3.11 --python-platform x86_64-manylinux_2_28
lock:            ## pin what envs/*.in name, for Linux on x86_64 (needs uv)
	$(LOCK) envs/requirements.in --output-file envs/equimood.lock
	$(LOCK) envs/dev.in --constraint envs/equimood.lock --output-file envs/dev.lock

backbone: $(VENV)/runtime ## pre-train the demo's backbone on other drawn horses (about half an hour)
	$(BIN)/python workflow/scripts/pretrain_demo_backbone.py resources/demo/backbone.safetensors

prune: $(VENV)/runtime ## remove kept progress that no study uses, and what kills left half-written
	$(BIN)/python workflow/scripts/prune.py

clean:           ## remove the environment
	rm -rf $(VENV)
