# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# Apache Kafka: one KRaft node with a plain, a SASL_SSL and a mutual-TLS listener. Sourced by scripts/services.sh.
VERSION=4.1.0
INPUTS=(pom.xml)
PORT=${KAFKA_PORT:-19092}
CONTROLLER_PORT=${KAFKA_CONTROLLER_PORT:-19093}
SASL_PORT=${KAFKA_SASL_PORT:-19094}
MTLS_PORT=${KAFKA_MTLS_PORT:-19095}
PORTS=("$PORT" "$CONTROLLER_PORT" "$SASL_PORT" "$MTLS_PORT")
TLS=$STATE/tls

part_install() {
  need_java
  need_command mvn maven
  nice mvn -q -B -f "$PART/pom.xml" -DoutputDirectory="$1/lib" -DincludeScope=runtime \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
}

part_start() {
  need_java
  make_certificates
  sed -e "s|@PORT@|$PORT|g; s|@CONTROLLER_PORT@|$CONTROLLER_PORT|g; s|@SASL_PORT@|$SASL_PORT|g; s|@MTLS_PORT@|$MTLS_PORT|g" \
    -e "s|@DATA@|$STATE/data/log|g; s|@TLS@|$TLS|g" "$PART/server.properties" >"$STATE/server.properties"
  format_data
  COMMAND=(java -Xmx1g "-Dlog4j2.configurationFile=$PART/log4j2.properties" -cp "$DIR/lib/*"
    kafka.Kafka "$STATE/server.properties")
}

# The users with a hashed password can only be put in while the directory is formatted; `formatted` tells that it was finished.
format_data() {
  if [[ -f $STATE/data/formatted ]]; then return; fi
  rm -rf "$STATE/data/log"
  local user hash scram=()
  for user in admin/admin-secret archiver/arch-secret; do
    for hash in 256 512; do
      scram+=(--add-scram "SCRAM-SHA-$hash=[name=${user%/*},password=${user#*/}]")
    done
  done
  java "-Dlog4j2.configurationFile=$PART/log4j2.properties" -cp "$DIR/lib/*" kafka.tools.StorageTool format \
    --cluster-id "$(cluster_id)" --config "$STATE/server.properties" "${scram[@]}" >"$STATE/format.log" 2>&1 ||
    { cat "$STATE/format.log" >&2 && die "kafka: could not format $STATE/data/log"; }
  touch "$STATE/data/formatted"
}

cluster_id() { # 16 random bytes as Kafka writes them; a first character '-' would be refused
  openssl rand -base64 16 | tr '+/' '__' | cut -c1-22
}

# Test certificates: an authority, one certificate for the broker and one for clients. Kept over restarts, also fresh ones.
make_certificates() {
  if [[ -f $TLS/made ]]; then return; fi
  need_command openssl openssl
  rm -rf "$TLS"
  mkdir -p "$TLS"
  local log=$TLS/make.log
  {
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=siltstone-test-ca -keyout "$TLS/ca.key" -out "$TLS/ca.pem"
    certificate broker serverAuth,clientAuth
    certificate client clientAuth
    openssl pkcs12 -export -in "$TLS/broker.pem" -inkey "$TLS/broker.key" -certfile "$TLS/ca.pem" -name broker \
      -passout pass:changeit -out "$TLS/broker.p12"
    # Java takes an authority from such a file only when keytool has marked it as trusted.
    keytool -importcert -noprompt -alias ca -file "$TLS/ca.pem" -storetype PKCS12 -keystore "$TLS/trust.p12" -storepass changeit
  } >"$log" 2>&1 || { cat "$log" >&2 && die "kafka: could not make certificates"; }
  touch "$TLS/made"
}

certificate() { # NAME USAGE
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$TLS/$1.key" -out "$TLS/$1.csr"
  openssl x509 -req -in "$TLS/$1.csr" -CA "$TLS/ca.pem" -CAkey "$TLS/ca.key" -CAcreateserial -days 3650 -out "$TLS/$1.pem" \
    -extfile <(printf '%s\n' "subjectAltName=DNS:localhost,IP:127.0.0.1" "basicConstraints=CA:FALSE" "extendedKeyUsage=$2")
}

# Not by the open port: for a moment after that the broker has not yet registered and could not take a new topic.
part_ready() { grep -q 'Kafka Server started' "$STATE/log"; }

part_env() {
  setting KAFKA_BROKERS "127.0.0.1:$PORT"
  setting KAFKA_SASL_BROKERS "127.0.0.1:$SASL_PORT"
  setting KAFKA_MTLS_BROKERS "127.0.0.1:$MTLS_PORT"
  setting KAFKA_CA "$TLS/ca.pem"
  setting KAFKA_CLIENT_CERT "$TLS/client.pem"
  setting KAFKA_CLIENT_KEY "$TLS/client.key"
}
