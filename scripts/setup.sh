#!/usr/bin/env bash
# Makes the virtual environment of the project and installs the project into it, once.
#
#   bash scripts/setup.sh      set up, then say how to use it
#   source scripts/setup.sh    set up, then use it in the calling script
#
# HH_TRAIN_VENV   where the environment lies (default: .venv in the checkout)
# HH_TRAIN_EXTRAS what is installed beside the core (default: demo,dev)
#
# A second run takes no time; after a change of pyproject.toml it installs what changed. Killed half-way, it goes on.

_hh_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_hh_venv="${HH_TRAIN_VENV:-$_hh_root/.venv}"
_hh_extras="${HH_TRAIN_EXTRAS:-demo,dev}"

_hh_say() { printf '[setup] %s\n' "$*" >&2; }

_hh_is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

_hh_find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$candidate" >/dev/null && _hh_is_supported "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    _hh_say "no Python 3.11, 3.12 or 3.13 was found (python3 is: $(python3 --version 2>&1 || true))."
    _hh_say "Install one, for example with your system's package manager, and run this again."
    return 1
}

_hh_make_venv() {
    local python
    if [ -x "$_hh_venv/bin/python" ] && _hh_is_supported "$_hh_venv/bin/python" &&
        compgen -G "$_hh_venv/lib/python*/site-packages/pip-*.dist-info/RECORD" >/dev/null; then
        return 0
    fi
    python="$(_hh_find_python)" || return 1
    _hh_say "making a virtual environment in $_hh_venv with $("$python" --version)"
    if [ -n "$(ls -A "$_hh_venv" 2>/dev/null)" ] && [ ! -f "$_hh_venv/pyvenv.cfg" ]; then
        _hh_say "there is something else in it: empty it, or set HH_TRAIN_VENV to another folder"
        return 1
    fi
    rm -rf "$_hh_venv" && mkdir -p "$_hh_venv" && touch "$_hh_venv/pyvenv.cfg" || return 1
    if ! "$python" -m venv "$_hh_venv"; then
        _hh_say "this Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
        return 1
    fi
}

# What decides whether the installation is up to date.
_hh_fingerprint() {
    "$_hh_venv/bin/python" - "$_hh_root" "$_hh_extras" <<'PYTHON'
import hashlib, pathlib, sys
root, extras = sys.argv[1:]
text = pathlib.Path(root, "pyproject.toml").read_bytes() + f"{sys.version}|{root}|{extras}".encode()
print(hashlib.sha256(text).hexdigest())
PYTHON
}

# A package whose installation was cut short has no RECORD, which is written last; forgotten, it is installed anew.
_hh_forget_unfinished() {
    local record
    for record in "$_hh_venv"/lib/python*/site-packages/*.dist-info; do
        if [ -d "$record" ] && [ ! -f "$record/RECORD" ]; then
            _hh_say "$(basename "$record" .dist-info) was not fully installed: installing it again"
            rm -rf "$record"
        fi
    done
}

_hh_install() {
    local stamp="$_hh_venv/.hh_train_installed" fingerprint
    fingerprint="$(_hh_fingerprint)" || return 1
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ]; then
        return 0
    fi
    _hh_say "installing hh_train and its dependencies [$_hh_extras]; the first time takes minutes"
    _hh_forget_unfinished
    local started=$SECONDS quiet=-qq
    if [ -t 2 ]; then quiet=--progress-bar=on; fi # who watches sees every package, a log only what is wrong
    if ! "$_hh_venv/bin/python" -m pip install "$quiet" --editable "$_hh_root[$_hh_extras]"; then
        _hh_say "the installation failed; what is installed stays, and running this again goes on"
        return 1
    fi
    printf '%s\n' "$fingerprint" >"$stamp.tmp" && mv "$stamp.tmp" "$stamp"
    _hh_say "installed in $((SECONDS - started)) s"
}

_hh_make_venv && _hh_install || { return 1 2>/dev/null || exit 1; }

export VIRTUAL_ENV="$_hh_venv"
export PATH="$_hh_venv/bin:$PATH"
# glibc would give every freed tensor back to the system and fault it in again at the next step: keep up to 4 GiB.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-4294967296}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-4294967296}"
# Threads that wait for each other spin this long before they sleep; the default is so long that beside another busy
# process a step takes many times as long.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-20000}"

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    _hh_say "ready. Use it with: source $_hh_venv/bin/activate"
fi
