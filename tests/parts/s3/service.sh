# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# versitygw, an S3 server over a directory: a bucket is a directory and an object a file in it. Sourced by scripts/services.sh.
VERSION=1.8.0
PORT=${S3_PORT:-17070}
PORTS=("$PORT")
BUCKET=siltstone
ACCESS_KEY=testkey
SECRET_KEY=testsecret
REGION=us-east-1

part_install() {
  need_go 1.26
  GOBIN=$1 nice go install -trimpath -ldflags='-s -w' "github.com/versity/versitygw/cmd/versitygw@v$VERSION"
}

part_start() {
  mkdir -p "$STATE/data/buckets/$BUCKET" "$STATE/data/versions"
  COMMAND=("$DIR/versitygw" --quiet --port "127.0.0.1:$PORT" --access "$ACCESS_KEY" --secret "$SECRET_KEY" --region "$REGION"
    posix --versioning-dir "$STATE/data/versions" "$STATE/data/buckets")
}

part_ready() { http_answers "http://127.0.0.1:$PORT/"; }

part_env() {
  setting S3_ENDPOINT "http://127.0.0.1:$PORT"
  setting S3_BUCKET "$BUCKET"
  setting S3_DATA "$STATE/data/buckets/$BUCKET"
  setting AWS_ACCESS_KEY_ID "$ACCESS_KEY"
  setting AWS_SECRET_ACCESS_KEY "$SECRET_KEY"
  setting AWS_REGION "$REGION"
}
