//! What to tell the person at 3 a.m. when the client meets a fault: what came back, and what to check.

use rdkafka::types::RDKafkaErrorCode as Code;

/// The client's own words with what to check. `reason` names the broker where there is one and holds no secret.
pub(super) fn explain(code: Code, reason: &str) -> String {
    let text = if reason.is_empty() { code.to_string() } else { reason.to_string() };
    match advice(code, reason) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

const TLS: &str = "the TLS handshake failed: check ssl.ca.location, ssl.certificate.location and ssl.key.location in \
                   [kafka.client], and that this port speaks TLS";

fn advice(code: Code, reason: &str) -> Option<&'static str> {
    Some(match code {
        Code::AllBrokersDown => "no broker can be reached: check [kafka] brokers, the network, and that Kafka runs",
        Code::BrokerTransportFailure if reason.contains("SSL") => TLS,
        Code::BrokerTransportFailure if reason.contains("closed by peer") || reason.contains("Disconnected") => {
            "the broker hung up: check that security.protocol in [kafka.client] is the one of this port"
        }
        Code::BrokerTransportFailure => "check that the broker runs and that this port can be reached from here",
        Code::Resolve => {
            "the host name is not known here: check [kafka] brokers and the advertised.listeners of the brokers"
        }
        Code::SSL => TLS,
        Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => {
            "the login was refused: check sasl.mechanism, sasl.username and sasl.password in [kafka.client]"
        }
        Code::TopicAuthorizationFailed => "this user needs the rights READ and DESCRIBE on the topic",
        Code::GroupAuthorizationFailed => "this user needs the right READ on the group of [kafka] group",
        Code::ClusterAuthorizationFailed => "this user may not use the cluster",
        Code::PollExceeded => {
            "the process was busy or stopped for longer than max.poll.interval.ms; its partitions went to others"
        }
        Code::FencedInstanceId => {
            "another live process uses the same [kafka] instance_id: give each process its own; or the group's coordinator \
             was slow, and the client joined again before it was forgotten: then starting again is enough"
        }
        Code::UnreleasedInstanceId => {
            "the group still has a member with this [kafka] instance_id: a live process (give each its own), or one that \
             was killed and is not missed yet (start again after the group's session timeout)"
        }
        Code::BadMessage | Code::BadCompression | Code::NotImplemented => {
            "the stored batch is damaged or packed with a codec that is not built in; reading of this partition stays \
             before it and is tried again"
        }
        Code::MessageSizeTooLarge => "raise receive.message.max.bytes and fetch.max.bytes in [kafka.client]",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_came_back_and_what_to_check() {
        let text = explain(Code::Authentication, "sasl_ssl://b:9094: SASL authentication error: bad credentials");
        assert!(text.starts_with("sasl_ssl://b:9094: SASL authentication error"), "{text}");
        assert!(text.contains("sasl.password in [kafka.client]"), "{text}");
        assert!(explain(Code::UnreleasedInstanceId, "").contains("start again after the group's session timeout"));
        assert_eq!(explain(Code::UnknownTopic, "t: gone"), "t: gone");
        assert!(explain(Code::AllBrokersDown, "").contains("check [kafka] brokers"));
    }
}
