# One job with curl and jq, for the shell contenders to source: generate BODY.json CLIP.mp4 [curl's options for the POST]
# The clip gets its name only when it is whole.
generate() {
  local body=$1 clip=$2 reply id status
  local url="$AIMLAPI_BASE_URL/v2/video/generations" key="Authorization: Bearer $AIMLAPI_KEY"
  shift 2
  reply=$(curl -fsS "$@" -H "$key" -H 'Content-Type: application/json' --data-binary "@$body" "$url") || return 1
  id=$(jq -er .id <<<"$reply") || return 1
  while :; do
    reply=$(curl -fsS -G -H "$key" --data-urlencode "generation_id=$id" "$url") || return 1
    status=$(jq -r .status <<<"$reply")
    case $status in
      queued | generating) sleep "${POLL_S:-0.5}" ;;
      completed) break ;;
      *) return 1 ;;
    esac
  done
  curl -fsS -o "$clip.part" "$(jq -r .video.url <<<"$reply")" && mv "$clip.part" "$clip"
}
