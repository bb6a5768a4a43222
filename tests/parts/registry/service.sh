# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# Apicurio Registry with Confluent's API. Sourced by scripts/services.sh.
#
# Out of the box it keeps schemas in memory and forgets ids with them. Here they lie in a file of H2 below $STATE/data, which
# survives `services.sh kill`: every answered registration is written, and ids stay what they were.
VERSION=2.6.13.Final
PORT=${REGISTRY_PORT:-18081}
TLS_PORT=${REGISTRY_TLS_PORT:-18443}
PORTS=("$PORT" "$TLS_PORT")
ARTIFACT=io.apicurio:apicurio-registry-app:$VERSION:tar.gz:all

part_install() {
  need_java
  need_command openssl openssl
  need_command mvn maven
  local goal=org.apache.maven.plugins:maven-dependency-plugin:3.6.1
  nice mvn -q -B "$goal:get" "-Dartifact=$ARTIFACT" -Dtransitive=false
  nice mvn -q -B "$goal:copy" "-Dartifact=$ARTIFACT" "-DoutputDirectory=$1"
  tar -xzf "$1"/*-all.tar.gz -C "$1"
  rm "$1"/*-all.tar.gz
}

# An authority of our own and a certificate of it for loopback, once.
make_certificate() {
  [[ ! -f $STATE/tls/server.pem ]] || return 0
  local tls=$STATE/tls key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  mkdir -p "$tls"
  openssl req -x509 "${key[@]}" -days 3650 -subj "/CN=siltstone tests" -keyout "$tls/ca.key" -out "$tls/ca.pem"
  openssl req "${key[@]}" -subj "/CN=registry" -keyout "$tls/server.key" -out "$tls/server.csr"
  openssl x509 -req -in "$tls/server.csr" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial -days 3650 \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1') -out "$tls/server.new"
  mv "$tls/server.new" "$tls/server.pem"
}

part_start() {
  need_java
  make_certificate
  # WRITE_DELAY=0: H2 would otherwise lose the last half second. legacy-id-mode: ids in payloads as Confluent's clients write them.
  export REGISTRY_DATASOURCE_URL="jdbc:h2:file:$STATE/data/registry;WRITE_DELAY=0"
  COMMAND=(java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$PORT"
    "-Dquarkus.http.ssl-port=$TLS_PORT" "-Dquarkus.http.ssl.certificate.files=$STATE/tls/server.pem"
    "-Dquarkus.http.ssl.certificate.key-files=$STATE/tls/server.key"
    -Dregistry.ccompat.legacy-id-mode.enabled=true -Dquarkus.log.level=WARN -jar "$DIR/apicurio-registry-app-$VERSION-runner.jar")
}

part_ready() { curl --silent --fail --output /dev/null --max-time 5 "http://127.0.0.1:$PORT/apis/ccompat/v7/subjects"; }

part_env() {
  setting REGISTRY_URL "http://127.0.0.1:$PORT/apis/ccompat/v7"
  setting REGISTRY_TLS_URL "https://127.0.0.1:$TLS_PORT/apis/ccompat/v7"
  setting REGISTRY_CA_FILE "$STATE/tls/ca.pem"
}
