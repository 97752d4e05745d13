#!/usr/bin/env bash
# One job with curl's own retries on the POST. curl_retry.sh BODY.json CLIP.mp4
set -u
source "$(dirname "$0")/job.sh"
generate "$1" "$2" --retry 10 --retry-all-errors --retry-delay 1
