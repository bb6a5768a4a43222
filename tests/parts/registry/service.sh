# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# Apicurio Registry with Confluent's API. Sourced by scripts/services.sh.
#
# Out of the box it keeps schemas in memory and forgets ids with them. Here they lie in a file of H2 below $STATE/data, which
# survives `services.sh kill`: every answered registration is written, and ids stay what they were.
VERSION=2.6.13.Final
PORT=${REGISTRY_PORT:-18081}
PORTS=("$PORT")
ARTIFACT=io.apicurio:apicurio-registry-app:$VERSION:tar.gz:all

part_install() {
  need_java
  need_command mvn maven
  local goal=org.apache.maven.plugins:maven-dependency-plugin:3.6.1
  nice mvn -q -B "$goal:get" "-Dartifact=$ARTIFACT" -Dtransitive=false
  nice mvn -q -B "$goal:copy" "-Dartifact=$ARTIFACT" "-DoutputDirectory=$1"
  tar -xzf "$1"/*-all.tar.gz -C "$1"
  rm "$1"/*-all.tar.gz
}

part_start() {
  need_java
  # WRITE_DELAY=0: H2 would otherwise lose the last half second. legacy-id-mode: ids in payloads as Confluent's clients write them.
  export REGISTRY_DATASOURCE_URL="jdbc:h2:file:$STATE/data/registry;WRITE_DELAY=0"
  COMMAND=(java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$PORT"
    -Dregistry.ccompat.legacy-id-mode.enabled=true -Dquarkus.log.level=WARN -jar "$DIR/apicurio-registry-app-$VERSION-runner.jar")
}

part_ready() { curl --silent --fail --output /dev/null --max-time 5 "http://127.0.0.1:$PORT/apis/ccompat/v7/subjects"; }

part_env() { setting REGISTRY_URL "http://127.0.0.1:$PORT/apis/ccompat/v7"; }
