# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# bqemulator: BigQuery's REST API over DuckDB. Sourced by scripts/services.sh.
#
# It reads gs:// from the directory in which the service gcs keeps its objects: the same bytes, not over HTTP. What it knows is gone
# when it stops. What it does otherwise than BigQuery is told in tests/it/bigquery.rs.
VERSION=1.4.0
INPUTS=(requirements.txt)
PORT=${BIGQUERY_PORT:-9050}
GRPC_PORT=${BIGQUERY_GRPC_PORT:-9060}
PORTS=("$PORT" "$GRPC_PORT")
PROJECT=siltstone-tests

part_install() {
  need_command python3 python3
  if ! python3 -c 'import ensurepip' 2>/dev/null; then apt_install python3-venv; fi
  python3 -m venv "$1/venv"
  nice "$1/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement "$PART/requirements.txt"
  mkdir "$1/home" # where DuckDB looks for extensions
  HOME=$1/home "$1/venv/bin/python" -c 'from duckdb_extensions import import_extension as add; [add(name) for name in ("spatial", "avro")]'
}

part_start() {
  mkdir -p "$RUN/gcs/data"
  # Its own python and not its script, which holds the path at which it was installed.
  COMMAND=(env "HOME=$DIR/home" "BQEMU_GCS_LOCAL_ROOT=$RUN/gcs/data" "$DIR/venv/bin/python" -m bqemulator start --rest-port "$PORT"
    --grpc-port "$GRPC_PORT" --ephemeral --project "$PROJECT" --log-format console --log-level warning)
}

part_ready() { curl --silent --fail --output /dev/null --max-time 5 "http://127.0.0.1:$PORT/bigquery/v2/projects/$PROJECT/datasets"; }

part_env() {
  setting BIGQUERY_ENDPOINT "http://127.0.0.1:$PORT"
  setting BIGQUERY_PROJECT "$PROJECT"
}
