#!/usr/bin/env bash
# A batch with GNU parallel; started again, it resumes from its job log. parallel_jobs.sh BODIES CLIPS AT_ONCE
set -u
source "$(dirname "$0")/job.sh"
export -f generate
parallel --will-cite -j "$3" --joblog joblog.tsv --resume generate {} "$2/{/.}.mp4" ::: "$1"/*.json
