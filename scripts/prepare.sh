#!/usr/bin/env bash
# Makes sure that what a build needs is there: a C compiler and make (the Kafka client is built from its bundled source),
# OpenSSL's headers, cmake. Installs what is missing with apt; does nothing where all is there.
set -euo pipefail

missing=()
need() { # command, package
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need cc build-essential
need make make
need cmake cmake
need pkg-config pkg-config
need perl perl
need python3 python3
need curl curl
if ! pkg-config --exists openssl 2>/dev/null; then missing+=(libssl-dev); fi

if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}" >&2
    sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -q >&2
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
fi
command -v cargo >/dev/null 2>&1 || { echo "cargo is missing: install Rust 1.95 or newer (rustup)" >&2; exit 1; }
