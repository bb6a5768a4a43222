#!/usr/bin/env bash
# The real servers the tests talk to: installs, starts and stops them as plain local processes.
#
#   scripts/services.sh install [NAME...]          install what is missing
#   scripts/services.sh start [--fresh] [NAME...]  install if needed, start, wait until ready; --fresh empties the data first
#   scripts/services.sh stop [NAME...]             stop; the data stays
#   scripts/services.sh kill [NAME...]             the same with SIGKILL, for tests of a crash
#   scripts/services.sh status [NAME...]           one line each; exit 3 when one of them is not running
#   scripts/services.sh env [NAME...]              shell assignments for the running ones: eval "$(scripts/services.sh env)"
#
# NAME is a directory of tests/parts; without a NAME the services in DEFAULT are meant.
# Everything is kept outside the source tree in SILTSTONE_CACHE (default ~/.cache/siltstone): the programs in parts/,
# the data, logs and pid files in run/NAME/. All servers listen on 127.0.0.1 only.
#
# A service is a file tests/parts/NAME/service.sh, sourced here, with
#   VERSION, PORTS   the version to install; the ports that must be free before a start
#   INPUTS           files beside it that the installation is made from: when one changes, it is installed again
#   part_install D   install into the empty directory D, which is moved to $DIR afterwards (so nothing in it may hold its own path)
#   part_start       prepare files below $STATE and set the array COMMAND: one process that stays in the foreground
#   part_ready       succeeds as soon as the server can be used
#   part_started     (may be missing) what is to be done after each start
#   part_env         print the settings of the running server with `setting`
#   MEMBERS          (may be missing) numbers of the processes that NAME stands for; $MEMBER tells which one is meant. NAME-2
#                    is the second of them alone. They are started side by side, since none may be ready before the others
#   PROGRAMS         (may be missing) the part whose installation is used instead of one of its own
# $PART is that directory, $STATE the run/NAME directory, $STATE/data what --fresh empties. Without part_start it is a mere tool.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SELF=$ROOT/scripts/services.sh
DEFAULT=(kafka s3 gcs azure hms bigquery)
START_TIMEOUT=${START_TIMEOUT:-120}
STOP_TIMEOUT=${STOP_TIMEOUT:-40}
# shellcheck source=tests/parts/common.sh
source "$ROOT/tests/parts/common.sh"
RUN=$SILTSTONE_CACHE/run

# ---- one service -----------------------------------------------------------------------------------------------------

load() { # NAME
  NAME=$1 MEMBER=''
  PART=$ROOT/tests/parts/$NAME
  if [[ ! -f $PART/service.sh && $NAME =~ ^(.+)-([0-9]+)$ ]]; then PART=$ROOT/tests/parts/${BASH_REMATCH[1]} MEMBER=${BASH_REMATCH[2]}; fi
  [[ $NAME =~ ^[a-z0-9][a-z0-9-]*$ && -f $PART/service.sh ]] || die "unknown service: $NAME"
  STATE=$RUN/$NAME
  VERSION='' PORTS=() INPUTS=() COMMAND=() MEMBERS=() PROGRAMS=''
  # shellcheck source=/dev/null
  source "$PART/service.sh"
  [[ -z $MEMBER || " ${MEMBERS[*]} " == *" $MEMBER "* ]] || die "unknown service: $NAME"
  if [[ -n $PROGRAMS ]]; then
    DIR=$("$SELF" --one directory "$PROGRAMS")
  else
    DIR=$SILTSTONE_CACHE/parts/${PART##*/}-$VERSION$(inputs_suffix) # one for all members
  fi
}

# The checksum of the inputs is part of the directory's name: a change never touches the files of a running server.
inputs_suffix() {
  ((${#INPUTS[@]})) || return 0
  (cd "$PART" && cat -- "${INPUTS[@]}") | sha256sum | cut -c1-8 | sed 's/^/-/'
}

install_one() {
  if [[ -n $PROGRAMS ]]; then "$SELF" --one install "$PROGRAMS"; return; fi
  if [[ $VERSION == system ]]; then part_install; return; fi # an ordinary package of the system
  if [[ -d $DIR ]]; then return; fi
  mkdir -p "${DIR%/*}"
  exec 8>"$DIR.lock"
  flock 8
  if [[ -d $DIR ]]; then return; fi # another process was faster
  say "installing $VERSION"
  local began=$SECONDS
  rm -rf "$DIR.new"
  mkdir "$DIR.new"
  part_install "$DIR.new" >&2
  mv "$DIR.new" "$DIR"
  exec 8>&-
  record_install "$NAME $VERSION" $((SECONDS - began))
}

is_server() { declare -F part_start >/dev/null || die "$NAME is a tool, not a server"; }

lock() { # one start or stop of a service at a time
  mkdir -p "$STATE"
  exec 9>"$STATE/lock"
  flock 9
}

# ---- which process is ours -------------------------------------------------------------------------------------------

# When a process was started: ticks since boot and the boot's id. Nothing for a process that is gone or a zombie.
birth() { # PID
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  # The second field is the name in brackets and may hold blanks, so count from the bracket: state is 1, start time 20.
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  [[ $1 != [ZX] ]] || return 0
  echo "${20}-$(</proc/sys/kernel/random/boot_id)"
}

# A pid file that is left over must not make us take (or kill) a stranger that has got the same number since.
running() {
  local pid born ports
  [[ -f $STATE/pid ]] && read -r pid born ports <"$STATE/pid" || return 1
  [[ $pid =~ ^[0-9]+$ && -n $born && $(birth "$pid") == "$born" ]] || return 1
  PID=$pid RUNNING_PORTS=$ports
}

wait_gone() { # SECONDS
  local end=$((SECONDS + $1))
  while running; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

forget() { rm -f "$STATE/pid" "$STATE/env"; }

# ---- start and stop --------------------------------------------------------------------------------------------------

start_one() {
  is_server
  lock
  if running && [[ $FRESH == yes ]]; then end_process TERM; fi
  if running; then
    if [[ -f $STATE/env ]]; then say "is running (pid $PID)"; return; fi
    await_ready # an earlier start was interrupted
    return
  fi
  forget
  install_one
  need_command curl curl
  check_ports
  if [[ $FRESH == yes ]]; then rm -rf "$STATE/data"; fi
  mkdir -p "$STATE/data"
  part_start
  launch
  await_ready
}

# A server of many threads that was stopped a moment ago may hold its port for a little longer than its first thread lives.
check_ports() {
  local port end=$((SECONDS + STOP_TIMEOUT))
  for port in "${PORTS[@]}"; do
    while port_open "$port"; do
      ((SECONDS < end)) || die "$NAME: port $port is taken by another process"
      sleep 0.1
    done
  done
}

launch() {
  [[ ! -f $STATE/log ]] || mv "$STATE/log" "$STATE/log.old"
  (
    cd "$STATE"
    close_other_files
    exec setsid "${COMMAND[@]}" >log 2>&1 </dev/null
  ) &
  echo "$! $(birth $!) ${PORTS[*]}" >"$STATE/pid"
}

# A server must not keep our lock, nor a pipe that somebody reads to its end.
close_other_files() {
  local fd
  for fd in "/proc/$BASHPID/fd/"*; do
    fd=${fd##*/}
    if ((fd > 2 && fd != 255)); then eval "exec $fd>&-"; fi
  done
}

await_ready() {
  local began=$SECONDS
  until part_ready; do
    running || give_up "died while starting"
    ((SECONDS - began < START_TIMEOUT)) || give_up "was not ready in $START_TIMEOUT s"
    sleep 0.1
  done
  running || give_up "died while starting"
  if declare -F part_started >/dev/null; then part_started || give_up "could not be set up"; fi
  part_env >"$STATE/env.new"
  mv "$STATE/env.new" "$STATE/env"
  say "started (pid $PID) on 127.0.0.1:${RUNNING_PORTS// /,} in $((SECONDS - began)) s"
}

give_up() { # WHAT
  tail -n 40 "$STATE/log" >&2 || true
  if running; then end_process KILL; fi
  forget
  die "$NAME $1; its log is $STATE/log"
}

stop_one() { # TERM|KILL
  is_server
  lock
  if running; then
    end_process "$1"
    say "stopped"
  else
    say "is not running"
  fi
  forget
}

end_process() { # TERM|KILL: the process group of our own pid file, nothing else
  kill "-$1" -- "-$PID" 2>/dev/null || true
  if ! wait_gone "$STOP_TIMEOUT"; then
    kill -KILL -- "-$PID" 2>/dev/null || true
    wait_gone 10 || die "$NAME: pid $PID does not end"
  fi
}

# ---- reports ---------------------------------------------------------------------------------------------------------

status_one() {
  is_server
  local state=stopped code=3
  if running; then
    state="running, pid $PID, 127.0.0.1:${RUNNING_PORTS// /,}" code=0
    if [[ ! -f $STATE/env ]]; then state="$state, not ready" code=3; fi
  elif [[ -f $STATE/pid ]]; then
    state="dead, log in $STATE/log"
  elif [[ ! -d $DIR ]]; then
    state="not installed"
  fi
  printf '%-8s %-10s %s\n' "$NAME" "$VERSION" "$state"
  return "$code"
}

# Written at the start, so that it tells the ports the server really got.
env_one() { if running && [[ -f $STATE/env ]]; then cat "$STATE/env"; fi; }

# ---- command line ----------------------------------------------------------------------------------------------------

usage() {
  sed -n '4,9s/^# *//p' "$SELF" >&2
  exit 2
}

# One process for each service: `set -e` stays in force in it, and one that fails does not keep the others from being done.
each() { # ACTION NAME...
  local action=$1 name failed=0
  shift
  for name in "$@"; do
    side_by_side "$action" "$name" || {
      local code=$?
      if ((code > failed)); then failed=$code; fi
    }
  done
  return "$failed"
}

side_by_side() { # ACTION NAME: all members of a part at once
  local action=$1 names member pid code=0 pids=()
  names=$("$SELF" --one members "$2") || return 1
  for member in $names; do
    FRESH=$FRESH "$SELF" --one "$action" "$member" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

# The names of the processes behind a name.
members() {
  if [[ -n $MEMBER || ${#MEMBERS[@]} == 0 ]]; then echo "$NAME"; else printf "$NAME-%s\n" "${MEMBERS[@]}"; fi
}

one() { # ACTION NAME
  load "$2"
  case $1 in
    install) install_one; say "$VERSION is installed" ;;
    start) start_one ;;
    stop) stop_one TERM ;;
    kill) stop_one KILL ;;
    status) status_one ;;
    env) env_one ;;
    members) members ;;
    directory) echo "$DIR" ;;
  esac
}

main() {
  local action=${1:-}
  [[ $action =~ ^(install|start|stop|kill|status|env)$ ]] || usage
  shift
  FRESH=no
  if [[ ${1:-} == --fresh && $action == start ]]; then FRESH=yes && shift; fi
  (($#)) || set -- "${DEFAULT[@]}"
  each "$action" "$@"
}

if [[ ${1:-} == --one ]]; then one "$2" "$3"; else main "$@"; fi
