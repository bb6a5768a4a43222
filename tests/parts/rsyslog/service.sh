# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# rsyslog with its output to Kafka. Sourced by scripts/services.sh.
#
# A mere tool here: tests/proofs/pipeline/syslog.py starts it as a process of its own, with rsyslog.conf beside this file.
VERSION=system

part_install() {
  if ! compgen -G '/usr/lib/*/rsyslog/omkafka.so' >/dev/null; then apt_install rsyslog rsyslog-kafka; fi
}
