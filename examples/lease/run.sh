#!/bin/sh
# One lease: unpack the data, put the carried checkpoint together, train under a wall-clock budget, cut the result.
#
#   sh run.sh STAGE DATA_PIECES CARRIED MINUTES [more options of satcascade train]
#
# CARRIED/in holds the pieces of the last checkpoint, if there is one; those of the new one go to CARRIED/out.
# SIGTERM ends training after the current step; the pieces are cut all the same.
set -eu
here=$(dirname "$0")
stage=$1 packed=$2 carried=$3 minutes=$4
shift 4
work=${WORK:-lease}
began=$(date +%s)

[ -e "$work/prepared/manifest.json" ] || python "$here/unpack.py" "$packed" "$work/prepared"
if [ -e "$carried/in/pieces.json" ] && [ ! -e "$work/$stage/run.json" ]; then
    python "$here/carry.py" join "$carried/in" "$work/$stage"
fi

# What is left of the minutes after unpacking.
left=$(awk "BEGIN { print $minutes - ($(date +%s) - $began) / 60 }")
satcascade train "$stage" --data "$work/prepared" --out "$work/$stage" --minutes "$left" "$@" &
training=$!
trap 'kill -TERM "$training"' TERM INT
status=0
wait "$training" || status=$?
# A signal ends the first wait, not the training.
[ "$status" -le 128 ] || { status=0; wait "$training" || status=$?; }

# Whatever ended training, the last checkpoint is carried.
[ ! -d "$work/$stage/checkpoints" ] || python "$here/carry.py" cut "$work/$stage" "$carried/out"
exit "$status"
