#!/usr/bin/env bash
# A batch with Snakemake; started again, it makes what is missing. snakemake_jobs.sh SNAKEMAKE BODIES CLIPS AT_ONCE
set -u
here=$(cd "$(dirname "$0")" && pwd)
common=(--snakefile "$here/Snakefile" --config "bodies=$2" "clips=$3" "here=$here")
# A run that was killed leaves its lock behind; its own message says to do this by hand.
if [ -e .snakemake/locks ] && [ -n "$(ls .snakemake/locks)" ]; then
  "$1" --unlock "${common[@]}"
fi
exec "$1" --cores "$4" --rerun-incomplete --keep-going "${common[@]}"
