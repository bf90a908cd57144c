#!/usr/bin/env bash
# Brings the browser that the arena's tests drive, where there is none: Debian's package for root, else Playwright's own.
# Without one these tests skip, and say so. HH_TRAIN_BROWSER names one that lies elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

has_browser() {
    local name
    [ -n "${HH_TRAIN_BROWSER:-}" ] && return 0
    for name in chromium chromium-browser google-chrome chrome; do
        command -v "$name" >/dev/null && return 0
    done
    python - <<'PYTHON' 2>/dev/null
import pathlib, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    sys.exit(not pathlib.Path(playwright.chromium.executable_path).is_file())
PYTHON
}

has_browser && exit 0
echo "[browser] none was found: installing Chromium" >&2
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    timeout 600 sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium' >/dev/null 2>&1 || true
fi
has_browser || timeout 300 python -m playwright install chromium >/dev/null 2>&1 || true
has_browser && exit 0
echo "[browser] Chromium could not be installed: the tests that need it are skipped" >&2
exit 1
