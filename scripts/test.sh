#!/usr/bin/env bash
# Sets up, then runs every check: style, types, import layers, tests. Arguments go to pytest:
#
#   bash scripts/test.sh                      everything
#   bash scripts/test.sh tests/runtime -x     these tests only
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
bash scripts/fetch_test_footage.sh || true # tests say so where the clips are missing
bash scripts/fetch_browser.sh || true      # and where there is no browser

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step ruff check .
step ruff format --check .
step mypy
step lint-imports
step pytest -q "$@"
