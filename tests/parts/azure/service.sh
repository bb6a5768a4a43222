# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# Azurite, Microsoft's emulator of Azure blob storage. Sourced by scripts/services.sh.
#
# It saves its index only every few seconds: SIGKILL right after a write loses the write, SIGTERM does not.
VERSION=3.35.0
PORT=${AZURE_PORT:-10000}
PORTS=("$PORT")
CONTAINER=siltstone
# The account and key that every Azurite has and every client library knows: no secret.
ACCOUNT=devstoreaccount1
KEY=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==
URL=http://127.0.0.1:$PORT/$ACCOUNT

part_install() {
  need_command node nodejs
  need_command npm npm
  nice npm install --prefix "$1" --omit=dev --no-audit --no-fund --no-package-lock --loglevel=error "azurite@$VERSION"
}

part_start() {
  need_command node nodejs
  COMMAND=(node "$DIR/node_modules/azurite/dist/src/blob/main.js" --silent --skipApiVersionCheck --disableTelemetry
    --blobHost 127.0.0.1 --blobPort "$PORT" --location "$STATE/data")
}

part_ready() { http_answers "$URL"; }

part_started() { node "$PART/container.mjs" "$URL" "$ACCOUNT" "$KEY" "$CONTAINER"; }

part_env() {
  setting AZURE_ENDPOINT "$URL"
  setting AZURE_CONTAINER "$CONTAINER"
  setting AZURE_STORAGE_ACCOUNT_NAME "$ACCOUNT"
  setting AZURE_STORAGE_ACCOUNT_KEY "$KEY"
  setting AZURITE_BLOB_STORAGE_URL "${URL%/*}"
}
