# shellcheck shell=bash disable=SC2034,SC2153 # the variables are for or from services.sh
# kcat, a Kafka command-line client. Sourced by scripts/services.sh.
#
# Debian's librdkafka 2.0.2 in it fails SCRAM against a Kafka 4.1 broker; use confluent-kafka for that.
VERSION=system

part_install() { need_command kcat kcat; }
