# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# HDFS as two processes: hdfs-1 is the namenode, hdfs-2 the only datanode. Sourced by scripts/services.sh.
#
# Simple authentication with permissions: whoever runs them is the superuser. Blocks have 1 MiB, so that small objects have several.
VERSION=3.4.2
INPUTS=(pom.xml)
MEMBERS=(1 2)
[[ -z $MEMBER ]] || PROGRAMS=hdfs # installed once for both
PORT=${HDFS_PORT:-18020}
HTTP_PORT=${HDFS_HTTP_PORT:-19870}
DATA_PORT=${HDFS_DATA_PORT:-19866}
DATA_HTTP_PORT=${HDFS_DATA_HTTP_PORT:-19864}
DATA_IPC_PORT=${HDFS_DATA_IPC_PORT:-19867}
case $MEMBER in
  1) PORTS=("$PORT" "$HTTP_PORT") ;;
  2) PORTS=("$DATA_PORT" "$DATA_HTTP_PORT" "$DATA_IPC_PORT") ;;
esac
CONF=$STATE/conf

part_install() {
  need_java
  need_command mvn maven
  nice mvn -q -B -f "$PART/pom.xml" -DoutputDirectory="$1/lib" -DincludeScope=runtime \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
}

part_start() {
  need_java
  mkdir -p "$CONF"
  local name
  for name in core-site.xml hdfs-site.xml log4j.properties; do
    sed -e "s|@PORT@|$PORT|g; s|@HTTP_PORT@|$HTTP_PORT|g; s|@DATA_PORT@|$DATA_PORT|g; s|@DATA_HTTP_PORT@|$DATA_HTTP_PORT|g" \
      -e "s|@DATA_IPC_PORT@|$DATA_IPC_PORT|g; s|@DATA@|$STATE/data|g; s|@BLOCKS@|$STATE/data/blocks|g" "$PART/$name" >"$CONF/$name"
  done
  # The pages of their web servers are not among the jars; without the folders they do not start.
  for name in hdfs datanode static; do
    mkdir -p "$CONF/webapps/$name/WEB-INF"
    echo '<web-app xmlns="http://xmlns.jcp.org/xml/ns/javaee" version="3.1"/>' >"$CONF/webapps/$name/WEB-INF/web.xml"
  done
  local java=(java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 --add-opens java.base/java.lang=ALL-UNNAMED
    "-Dhadoop.home.dir=$DIR" -cp "$CONF:$DIR/lib/*")
  local server=org.apache.hadoop.hdfs.server
  if [[ $MEMBER == 2 ]]; then
    forget_other_namenode
    COMMAND=("${java[@]}" "$server.datanode.DataNode")
    return
  fi
  if [[ ! -f $STATE/data/formatted ]]; then
    rm -rf "$STATE/data/names"
    "${java[@]}" "$server.namenode.NameNode" -format -nonInteractive >"$STATE/format.log" 2>&1 ||
      { cat "$STATE/format.log" >&2 && die "hdfs: could not format $STATE/data/names"; }
    touch "$STATE/data/formatted"
  fi
  COMMAND=("${java[@]}" "$server.namenode.NameNode")
}

# A datanode keeps to the namenode whose blocks it has: what is left of one that was formatted since is of no use.
forget_other_namenode() {
  local names=${STATE%-2}-1/data/names/current/VERSION blocks=$STATE/data/blocks/current/VERSION
  [[ -f $blocks ]] || return 0
  if [[ ! -f $names || $(grep '^clusterID=' "$names") != "$(grep '^clusterID=' "$blocks")" ]]; then rm -rf "$STATE/data/blocks"; fi
}

# The namenode as soon as it answers; the datanode when the namenode counts it among the living and lets files be written.
part_ready() {
  local asked="http://127.0.0.1:$HTTP_PORT/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState" found
  found=$(curl --silent --fail --max-time 5 "$asked") || return 1
  case $MEMBER in
    1) port_open "$PORT" ;;
    2) grep -q '"NumLiveDataNodes" : 1' <<<"$found" && grep -q '"FSState" : "Operational"' <<<"$found" ;;
  esac
}

part_env() {
  [[ $MEMBER == 1 ]] || return 0
  setting HDFS_URL "hdfs://127.0.0.1:$PORT"
  setting HDFS_WEB "http://127.0.0.1:$HTTP_PORT/webhdfs/v1"
  setting HDFS_NAMENODE_JMX "http://127.0.0.1:$HTTP_PORT/jmx"
  setting HDFS_DATANODE_JMX "http://127.0.0.1:$DATA_HTTP_PORT/jmx"
  setting HDFS_CONF "$CONF"
}
