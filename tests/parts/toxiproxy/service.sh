# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# toxiproxy: TCP links that can be cut, slowed and reset over its HTTP API. Sourced by scripts/services.sh.
# Links are made by who needs them and live as long as the process.
VERSION=2.5.0
PORT=${TOXIPROXY_PORT:-18474}
PORTS=("$PORT")

part_install() {
  need_go 1.26
  GOBIN=$1 nice go install -trimpath -ldflags='-s -w' "github.com/Shopify/toxiproxy/v2/cmd/server@v$VERSION"
}

part_start() { COMMAND=("$DIR/server" -host 127.0.0.1 -port "$PORT"); }

part_ready() { http_answers "http://127.0.0.1:$PORT/version"; }

part_env() { setting TOXIPROXY_URL "http://127.0.0.1:$PORT"; }
