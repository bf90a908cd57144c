#!/usr/bin/env bash
# A new person: what fine-tuning learns of a speaker whom the quickstart's models have not met, and whether words are kept.
# On the teacher, on the student, and three ways to a student that knows the person. Needs a finished quickstart.
#
#   bash scripts/finetune_person.sh                 what it makes lies in runs/person
#   HH_TRAIN_BASE=runs/quickstart HH_TRAIN_ROOT=runs/person PERSON=0 STEPS=100 bash scripts/finetune_person.sh
#
# Killed anywhere and started again, it goes on: every command leaves alone what is done.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh

base="${HH_TRAIN_BASE:-runs/quickstart}"
export HH_TRAIN_ROOT="${HH_TRAIN_ROOT:-runs/person}"
export WANDB_MODE="${WANDB_MODE:-offline}" WANDB_SILENT="${WANDB_SILENT:-true}"
steps="${STEPS:-100}"

say() { printf '\n== %s\n' "$*"; }

say "clips of one person"
python data/talking_heads/render.py --output "$HH_TRAIN_ROOT/footage" --languages en --person "${PERSON:-0}" \
    --clips-per-split train=24,validation=4,test=24 --digits 2-3 --size 64 --framings close-up --head-motion 0.2 --seed 0
hh-train tokenize codecs="$base/shards"

# tune NAME EXPERIMENT CHECKPOINT [OVERRIDES...]
tune() {
    local name="$1" experiment="$2" checkpoint="$3"
    shift 3
    say "fine-tuning: $name"
    hh-train finetune experiment="finetune/$experiment" checkpoint="$checkpoint" output="$HH_TRAIN_ROOT/$name" \
        trainer.max_steps="$steps" speech_recognizer@voice.recognizer=trained \
        paths.recognizer="$base/recognizer" "$@"
}
tune tuned_teacher lora "$base/pretrain"
tune tuned_student student "$base/distill" teacher="$base/pretrain/model"
tune plainly_tuned_student student "$base/distill" module.anchor=null

say "the tuned teacher distilled again"
hh-train distill module.teacher.folder="$HH_TRAIN_ROOT/tuned_teacher/model" output="$HH_TRAIN_ROOT/distilled_again" \
    "datamodule.shards=[{_target_:hh_train.data.loading.shard_sets.ShardSet,path:$HH_TRAIN_ROOT/shards,weight:1},{_target_:hh_train.data.loading.shard_sets.ShardSet,path:$base/shards,weight:1}]"

# clips NAME SAMPLER CHECKPOINT [OVERRIDES...]
clips() {
    local name="$1" sampler="$2" checkpoint="$3"
    shift 3
    say "clips: $name"
    hh-train generate sampler="$sampler" checkpoint="$checkpoint" output="$HH_TRAIN_ROOT/generated/$name" "$@"
}
clips teacher teacher "$base/pretrain/model"
clips tuned_teacher teacher "$HH_TRAIN_ROOT/tuned_teacher/model"
clips student student "$base/distill/model"
clips tuned_student student "$HH_TRAIN_ROOT/tuned_student/model"
clips plainly_tuned_student student "$HH_TRAIN_ROOT/plainly_tuned_student/model"
clips student_with_teachers_adapter student "$base/distill/model" \
    "adapters=[{path:$HH_TRAIN_ROOT/tuned_teacher/adapter/comfyui.safetensors,any_base:true}]"
clips distilled_again student "$HH_TRAIN_ROOT/distilled_again/model"

say "scores"
hh-train evaluate faces=framed paths.recognizer="$base/recognizer" reference="$HH_TRAIN_ROOT/footage/test" \
    +measure@measures.likeness=likeness measures.likeness.person="$HH_TRAIN_ROOT/footage/train" \
    measures.likeness.others="$base/footage/test" ~systems.teacher_8_steps \
    +systems.tuned_teacher="$HH_TRAIN_ROOT/generated/tuned_teacher" \
    +systems.tuned_student="$HH_TRAIN_ROOT/generated/tuned_student" \
    +systems.plainly_tuned_student="$HH_TRAIN_ROOT/generated/plainly_tuned_student" \
    +systems.student_with_teachers_adapter="$HH_TRAIN_ROOT/generated/student_with_teachers_adapter" \
    +systems.distilled_again="$HH_TRAIN_ROOT/generated/distilled_again"
