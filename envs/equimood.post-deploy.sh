#!/usr/bin/env bash
# Snakemake runs this inside the new conda environment, from the folder it was started in.
set -euo pipefail
python -m pip install --require-hashes --requirement envs/equimood.lock
