#!/usr/bin/env bash
# The whole road on a CPU: footage, three judges of speech and lips, latents, teacher, 8-step student, clips, report, inference bundle.
#
#   bash scripts/quickstart.sh              what it makes lies in runs/quickstart
#   HH_TRAIN_ROOT=/data/try bash scripts/quickstart.sh
#
# Killed anywhere and started again, it goes on from the last finished step; training goes on from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh

export HH_TRAIN_ROOT="${HH_TRAIN_ROOT:-runs/quickstart}"
export WANDB_MODE="${WANDB_MODE:-offline}" WANDB_SILENT="${WANDB_SILENT:-true}"
mkdir -p "$HH_TRAIN_ROOT"

# step NAME COMMAND...: runs the command unless it has finished before, and says how long it took.
step() {
    local name="$1" done_file="$HH_TRAIN_ROOT/.done/$1" started=$SECONDS
    shift
    if [ -f "$done_file" ]; then
        printf '\n== %s: done before, in %s s\n' "$name" "$(cat "$done_file")"
        return
    fi
    printf '\n== %s: %s\n' "$name" "$*"
    "$@"
    mkdir -p "$HH_TRAIN_ROOT/.done"
    printf '%s\n' "$((SECONDS - started))" >"$done_file.tmp" && mv "$done_file.tmp" "$done_file"
    printf '== %s: %s s\n' "$name" "$(cat "$done_file")"
}

step footage python data/talking_heads/render.py --output "$HH_TRAIN_ROOT/footage" --languages en \
    --clips-per-split train=600,validation=40,test=48 --digits 2-3 --size 64 --framings close-up --head-motion 0.2 --seed 0
step recognizer hh-train train_recognizer
step lip_reader hh-train train_lip_reader faces=framed max_steps=350
step sync_expert hh-train train_sync_expert faces=framed max_steps=250
step shards hh-train tokenize recognizer="$HH_TRAIN_ROOT/recognizer"
step teacher hh-train pretrain
step student hh-train distill
step teacher_clips hh-train generate sampler=teacher
step teacher_8_steps_clips hh-train generate sampler=teacher_8_steps
step student_clips hh-train generate sampler=student
step report hh-train evaluate faces=framed measure@measures.lips=lip_reading measures.sync.expert="$HH_TRAIN_ROOT/sync_expert"
step bundle hh-train export

total=0
for file in "$HH_TRAIN_ROOT"/.done/*; do total=$((total + $(cat "$file"))); done
printf '\nThe road took %s s. Look at it:\n  %s\n  %s\n' "$total" \
    "$HH_TRAIN_ROOT/evaluation/report.html" "$HH_TRAIN_ROOT/bundle/README.md"
