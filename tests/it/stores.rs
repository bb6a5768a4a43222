//! Stores and brokers that are not there or refuse: the process ends at the start, says what and what to do, and shows no secret.

use crate::support::configuration::{Trial, s3_section};
use crate::support::kafka::Topic;
use crate::support::process::free_address;
use crate::support::setting;
use std::time::Duration;

#[test]
fn a_missing_bucket_is_named() {
    let topic = Topic::create(1);
    let mut trial = Trial::on_s3(&topic);
    trial.destination = s3_section("no-such-bucket-here", "p", &setting("AWS_SECRET_ACCESS_KEY"));
    let says = ["there is no bucket", "no-such-bucket-here", "create it"];
    trial.drain().expect(3).says(&says).hides(&[&setting("AWS_SECRET_ACCESS_KEY")]);
    trial.command("check", &["--connect"]).expect(3).prints(&says);
}

#[test]
fn wrong_credentials_are_said_and_not_shown() {
    let topic = Topic::create(1);
    let mut trial = Trial::on_s3(&topic);
    let secret = "a-very-secret-password-9f2c";
    trial.destination = s3_section(&setting("S3_BUCKET"), "p", secret);
    let says = ["does not accept the credentials", &setting("S3_BUCKET"), "check the destination's key options"];
    trial.drain().expect(3).says(&says).hides(&[secret]);
    trial.command("check", &["--connect", "-v"]).expect(3).prints(&says).hides(&[secret]);
    trial.start(&["--drain", "--log-level", "debug"]).wait(Duration::from_secs(60)).expect(3).hides(&[secret]);
}

/// A Kafka login that is refused, by the listener that asks for one.
#[test]
fn a_refused_kafka_login_is_said_and_the_password_not_shown() {
    let topic = Topic::create(1);
    let mut trial = Trial::on_disk(&topic);
    trial.brokers = setting("KAFKA_SASL_BROKERS");
    let password = "another-secret-password-71b4";
    trial.sections = format!(
        "[kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\
         \"sasl.username\" = \"archiver\"\n\"sasl.password\" = \"{password}\"\n\"ssl.ca.location\" = \"{}\"",
        setting("KAFKA_CA")
    );
    let ended = trial.drain().expect(3).says(&["sasl.password in [kafka.client]"]).hides(&[password]);
    assert!(ended.took < Duration::from_secs(35), "{:?}", ended.took);
}

/// Side by side: each of them waits for half a minute in case it passes.
#[test]
fn what_cannot_be_reached_at_the_start_is_named_within_35_seconds() {
    let topic = Topic::create(1);
    let nobody = free_address();
    std::thread::scope(|scope| {
        let broker = scope.spawn(|| {
            let mut trial = Trial::on_disk(&topic);
            trial.brokers = nobody.clone();
            trial.drain().expect(4).says(&["no answer from Kafka", &nobody])
        });
        let store = scope.spawn(|| {
            let mut trial = Trial::on_s3(&topic);
            trial.destination = trial.destination.replace(&setting("S3_ENDPOINT"), &format!("http://{nobody}"));
            trial.drain().expect(4).says(&["cannot be reached", &nobody]).hides(&[&setting("AWS_SECRET_ACCESS_KEY")])
        });
        let check = scope.spawn(|| {
            let mut trial = Trial::on_disk(&topic);
            trial.brokers = nobody.clone();
            trial.command("check", &["--connect"]).expect(4).prints(&["no answer from Kafka", &nobody])
        });
        let inspect = scope.spawn(|| {
            let mut trial = Trial::on_disk(&topic);
            trial.brokers = nobody.clone();
            trial.command("inspect", &[]).expect(4).says(&["no answer from Kafka", &nobody])
        });
        for ended in [broker, store, check, inspect].map(|one| one.join().expect("it says so")) {
            assert!(ended.took < Duration::from_secs(35), "{:?}: {}", ended.took, ended.err);
        }
    });
}
