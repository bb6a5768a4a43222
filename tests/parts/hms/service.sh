# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# The Hive Metastore without Hive, on an embedded Derby. Sourced by scripts/services.sh.
#
# hms-1 speaks plain thrift, hms-2 thrift over TLS: one metastore cannot do both. They share nothing. 3.1.3 listens on all
# interfaces, whatever it is told (metastore.thrift.bind.host is read by later ones).
VERSION=3.1.3
INPUTS=(pom.xml)
MEMBERS=(1 2)
PORT=$((${HMS_PORT:-9083} + ${MEMBER:-1} - 1))
PORTS=("$PORT")
TLS=$STATE/tls

part_install() {
  need_java
  need_command mvn maven
  nice mvn -q -B -f "$PART/pom.xml" -DoutputDirectory="$1/lib" -DincludeScope=runtime \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
}

is_tls() { [[ $MEMBER == 2 ]]; }

# An authority of our own and a certificate of it for loopback, once.
make_certificate() {
  [[ ! -f $TLS/server.p12 ]] || return 0
  need_command openssl openssl
  local key=(-newkey rsa:2048 -nodes) log=$TLS/make.log
  mkdir -p "$TLS"
  {
    openssl req -x509 "${key[@]}" -days 3650 -subj "/CN=siltstone tests" -keyout "$TLS/ca.key" -out "$TLS/ca.pem"
    openssl req "${key[@]}" -subj "/CN=metastore" -keyout "$TLS/server.key" -out "$TLS/server.csr"
    openssl x509 -req -in "$TLS/server.csr" -CA "$TLS/ca.pem" -CAkey "$TLS/ca.key" -CAcreateserial -days 3650 -out "$TLS/server.pem" \
      -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1')
    openssl pkcs12 -export -in "$TLS/server.pem" -inkey "$TLS/server.key" -name metastore -passout pass:changeit -out "$TLS/server.new"
  } >"$log" 2>&1 || { cat "$log" >&2 && die "hms: could not make certificates"; }
  mv "$TLS/server.new" "$TLS/server.p12"
}

part_start() {
  need_java
  local tls=false
  if is_tls; then make_certificate && tls=true; fi
  mkdir -p "$STATE/conf"
  cp "$PART/log4j2.properties" "$STATE/conf/"
  sed -e "s|@PORT@|$PORT|g; s|@DATA@|$STATE/data|g; s|@TLS@|$tls|g; s|@KEYSTORE@|$TLS/server.p12|g" "$PART/metastore-site.xml" \
    >"$STATE/conf/metastore-site.xml"
  # What is written survives the process, not the machine: with a sync for each table a first start takes minutes on a busy disk.
  COMMAND=(java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dderby.system.durability=test "-Dderby.stream.error.file=$STATE/data/derby.log"
    -cp "$STATE/conf:$DIR/lib/*" org.apache.hadoop.hive.metastore.HiveMetaStore -p "$PORT")
}

# Not by the open port: it takes connections long before it has looked through its database. The call is answered with its name in it.
part_ready() {
  port_open "$PORT" || return 1
  local call='\x80\x01\0\x01\0\0\0\x11get_all_databases\0\0\0\x01\0'
  if is_tls; then
    # What it writes is read from outside, because nobody would wait for the end of a connection that stays open.
    head -c 25 < <(printf "$call" | timeout 5 openssl s_client -quiet -connect "127.0.0.1:$PORT" 2>/dev/null)
  else
    (exec 3<>"/dev/tcp/127.0.0.1/$PORT" && printf "$call" >&3 && timeout 5 head -c 25 <&3)
  fi 2>/dev/null | grep -aq get_all_databases
}

part_env() {
  if is_tls; then
    setting HMS_TLS_URI "thrift://localhost:$PORT"
    setting HMS_CA_FILE "$TLS/ca.pem"
  else
    setting HMS_URI "thrift://127.0.0.1:$PORT"
  fi
}
