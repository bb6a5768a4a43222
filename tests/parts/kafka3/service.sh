# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# Three Kafka brokers that share everything: any one of them can be killed and started singly. Sourced by scripts/services.sh.
#
# Beside the direct listener each broker has LINKS others. Clients that come in through one of them are told addresses
# where nothing listens unless somebody puts a proxy there: port + 10 on each broker leads to the listener of that link.
VERSION=4.1.0
PROGRAMS=kafka # installed once for both
MEMBERS=(1 2 3)
LINKS=4
BASE=${KAFKA3_PORT:-29000}

direct_port() { echo $((BASE + 100 * $1)); }          # BROKER
link_port() { echo $((BASE + 100 * $1 + 20 + $2)); }  # BROKER LINK: where it listens
proxy_port() { echo $((BASE + 100 * $1 + 30 + $2)); } # BROKER LINK: what it tells its clients

NODE=${MEMBER:-1}
PORTS=("$(direct_port "$NODE")" $(($(direct_port "$NODE") + 1)))
for link in $(seq "$LINKS"); do PORTS+=("$(link_port "$NODE" "$link")"); done

part_start() {
  need_java
  local listeners advertised protocols=CONTROLLER:PLAINTEXT,DIRECT:PLAINTEXT voters='' node link
  listeners=DIRECT://127.0.0.1:${PORTS[0]},CONTROLLER://127.0.0.1:${PORTS[1]}
  advertised=DIRECT://127.0.0.1:${PORTS[0]}
  for link in $(seq "$LINKS"); do
    listeners+=,LINK$link://127.0.0.1:$(link_port "$NODE" "$link")
    advertised+=,LINK$link://127.0.0.1:$(proxy_port "$NODE" "$link")
    protocols+=,LINK$link:PLAINTEXT
  done
  for node in "${MEMBERS[@]}"; do voters+=${voters:+,}$node@127.0.0.1:$(($(direct_port "$node") + 1)); done
  sed -e "s|@NODE@|$NODE|; s|@VOTERS@|$voters|; s|@LISTENERS@|$listeners|; s|@ADVERTISED@|$advertised|" \
    -e "s|@PROTOCOLS@|$protocols|; s|@DATA@|$STATE/data/log|" "$PART/server.properties" >"$STATE/server.properties"
  format_data
  COMMAND=(java -Xmx256m -Xms128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$ROOT/tests/parts/kafka/log4j2.properties"
    -cp "$DIR/lib/*" kafka.Kafka "$STATE/server.properties")
}

# All three must be formatted with the same id, and start side by side: so it is written here.
format_data() {
  if [[ -f $STATE/data/formatted ]]; then return; fi
  rm -rf "$STATE/data/log"
  java "-Dlog4j2.configurationFile=$ROOT/tests/parts/kafka/log4j2.properties" -cp "$DIR/lib/*" kafka.tools.StorageTool format \
    --cluster-id c2lsdHN0b25lLXRocmVlMA --config "$STATE/server.properties" >"$STATE/format.log" 2>&1 ||
    { cat "$STATE/format.log" >&2 && die "$NAME: could not format $STATE/data/log"; }
  touch "$STATE/data/formatted"
}

part_ready() { grep -q 'Kafka Server started' "$STATE/log"; }

part_env() {
  local node direct=''
  for node in "${MEMBERS[@]}"; do direct+=${direct:+,}127.0.0.1:$(direct_port "$node"); done
  setting KAFKA3_BROKERS "$direct"
  setting KAFKA3_BASE "$BASE"
  setting KAFKA3_LINKS "$LINKS"
}
