# shellcheck shell=bash
# What services.sh and python.sh share: where things are kept, messages, missing commands, small probes. Sourced, not run.

SILTSTONE_CACHE=${SILTSTONE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/siltstone}

say() { echo "${NAME:+$NAME }$*" >&2; } # standard output is kept for results
die() {
  echo "error: $*" >&2
  exit 1
}

record_install() { # WHAT SECONDS
  say "installed in $2 s"
  echo "$(date -u +%FT%TZ) $1 $2 s" >>"$SILTSTONE_CACHE/install.log"
}

need_command() { # COMMAND PACKAGE...: install the packages when the command is missing
  local command=$1
  shift
  if command -v "$command" >/dev/null; then return; fi
  say "installing the package $* for $command"
  apt_install "$@"
  command -v "$command" >/dev/null || die "$command is still missing after installing $*"
}

apt_install() { # PACKAGE...
  local as_root=()
  if ((EUID != 0)); then as_root=(sudo); fi
  command -v apt-get >/dev/null || die "please install: $*"
  {
    if [[ -z ${APT_UPDATED:-} ]]; then "${as_root[@]}" apt-get -qq update && APT_UPDATED=yes; fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
  } >&2
}

need_java() { need_command java openjdk-17-jre-headless; }

need_go() { # MAJOR.MINOR: distributions often have a far older one, whose own message would mislead
  local found
  need_command go golang
  found=$(go env GOVERSION)
  [[ $(printf '%s\n' "$1" "${found#go}" | sort -V | head -n 1) == "$1" ]] || die "Go $1 or newer is needed, found ${found#go}"
}

port_open() { # PORT
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

http_answers() { # URL: any answer counts, also a refusal
  curl --silent --output /dev/null --max-time 5 "$1"
}

setting() { # NAME VALUE: one line of `services.sh env`
  printf '%s=%q\n' "$1" "$2"
}
