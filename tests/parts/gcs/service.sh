# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# fake-gcs-server with the XML API's writes added by main.go. Sourced by scripts/services.sh.
VERSION=1.56.1
INPUTS=(go.mod go.sum main.go)
PORT=${GCS_PORT:-14443}
PORTS=("$PORT")
BUCKET=siltstone

part_install() {
  need_go 1.26
  nice go build -C "$PART" -trimpath -ldflags='-s -w' -o "$1/fake-gcs-xml" .
}

part_start() {
  COMMAND=("$DIR/fake-gcs-xml" -port "$PORT" -root "$STATE/data" -buckets "$BUCKET")
}

part_ready() { http_answers "http://127.0.0.1:$PORT/storage/v1/b/$BUCKET"; }

part_env() {
  setting GCS_ENDPOINT "http://127.0.0.1:$PORT"
  setting GCS_BUCKET "$BUCKET"
  setting GCS_DATA "$STATE/data/$BUCKET"
}
