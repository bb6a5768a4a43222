//! The seams towards Kafka on a real broker: `scripts/services.sh start kafka`, then run with what
//! `scripts/services.sh env` prints. A missing broker is a failure, never a skip.
//!
//! Every test has a topic and a group of its own, waits for events with a deadline, and never for a time.

#[path = "kafka_parts/faults.rs"]
mod faults;
#[path = "kafka_parts/proxy.rs"]
mod proxy;
#[path = "kafka_parts/support.rs"]
mod support;

use futures::executor::block_on;
use siltstone::config::{GroupProtocol, Isolation, Secret};
use siltstone::consume::{CommitError, Coordinator, Source};
use siltstone::kafka::{MetaClient, Wanted};
use siltstone::record::TopicPartition;
use std::time::Duration;
use support::*;

/// Goal: pausing, resuming and starting again lose nothing and double nothing, also around ends of partitions, where
/// librdkafka's own position is one record too far.
/// Method: 100,000 records in portions, so that the ends are met again and again, while a seeded walk pauses, resumes and
/// restarts; the log checks that every record is exactly the next one.
#[test]
fn pause_resume_and_restart_lose_nothing_and_double_nothing() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("pauses", 3);
    let mut member = Member::join(config(&topic.name), wanted(&topic));
    member.until("three partitions", |member| member.held().len() == 3);
    let mut random = Random(42);
    let mut produced = 0_i64;
    for step in 0..400 {
        if step % 4 == 0 {
            let count = 100_000 / 3 / 100 + 1;
            (0..3).for_each(|partition| topic.produce(partition, produced, count));
            produced += count;
        }
        let held = member.held()[random.below(3)].clone();
        match random.below(6) {
            0 => member.source.pause(&held),
            1 => member.source.resume(&held),
            2 => {
                let back = member.next(&held.partition).saturating_sub(random.below(50) as i64).max(0);
                member.start(&held, back);
            }
            _ => member.poll(),
        }
        member.note(&held.partition, step);
    }
    for held in member.held() {
        member.source.resume(&held);
    }
    member.until("everything", |member| (0..3).all(|partition| member.next(&topic.partition(partition)) == produced));
    assert!(produced * 3 >= 100_000);
    assert_eq!(member.log.faults, Vec::<String>::new());
    member.close();
}

/// Goal: a rebalance while a reader stands at the end of its partition does not skip the next record (K-2).
/// Method: reach the end, let a second member come and go, produce one record, expect exactly that one; many times.
#[test]
fn a_rebalance_at_the_end_of_a_partition_skips_nothing() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("ends", 2);
        let mut config = config(&topic.name);
        config.protocol = protocol;
        let mut first = Member::join(config.clone(), wanted(&topic));
        first.until("both partitions", |member| member.held().len() == 2);
        let mut produced = 0;
        for _round in 0..3 {
            (0..2).for_each(|partition| topic.produce(partition, produced, 5));
            produced += 5;
            first.until("the ends", |member| {
                (0..2).all(|number| member.end(&topic.partition(number)) == Some(produced))
            });
            let mut second = Member::join(config.clone(), wanted(&topic));
            second.starts_at = StartAt::Never;
            both_until("one each", &mut first, &mut second, |first, second| {
                first.held().len() == 1 && second.held().len() == 1
            });
            second.close();
            first.until("both again", |member| member.held().len() == 2);
            (0..2).for_each(|partition| topic.produce(partition, produced, 1));
            produced += 1;
            first.until("the next record", |member| {
                (0..2).all(|number| member.next(&topic.partition(number)) == produced)
            });
        }
        assert_eq!(first.log.faults, Vec::<String>::new(), "{protocol:?}");
        first.close();
    }
}

/// Goal: partitions that move between members are archived exactly once, by both group protocols.
/// Method: a miniature archiver per member (read, commit, drop what was revoked); a second member comes and leaves
/// while 20,000 records are read; every offset must be archived exactly once.
#[test]
fn moving_partitions_are_archived_exactly_once() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("moves", 4);
        let mut config = config(&topic.name);
        config.protocol = protocol;
        let mut first = Archiver::join(config.clone(), wanted(&topic));
        (0..4).for_each(|partition| topic.produce(partition, 0, 2_000));
        first.until("a third", |one| one.archived.len() > 2_000);
        let mut second = Archiver::join(config.clone(), wanted(&topic));
        archivers_until("both at work", &mut first, &mut second, |first, second| {
            first.member.held().len() == 2 && second.member.held().len() == 2
        });
        (0..4).for_each(|partition| topic.produce(partition, 2_000, 3_000));
        let before = second.archived.len();
        archivers_until("the second archives", &mut first, &mut second, |_, second| {
            second.archived.len() > before + 500
        });
        second.member.close();
        let mut archived = std::mem::take(&mut second.archived);
        first.until("the rest", |one| one.archived.len() + archived.len() >= 20_000);
        archived.append(&mut first.archived);
        archived.sort();
        let expected: Vec<(i32, i64)> = (0..4).flat_map(|part| (0..5_000).map(move |at| (part, at))).collect();
        assert!(archived == expected, "{protocol:?}: {}", difference(&archived, &expected));
        first.member.close();
    }
}

/// Goal: offset and metadata come back as written, from the broker; too much metadata is refused and changes nothing; a
/// partition held before a rejoin cannot be committed after it.
#[test]
fn commits_carry_metadata_and_die_with_their_assignment() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("commits", 1);
    topic.produce(0, 0, 10);
    let mut member = Member::join(config(&topic.name), wanted(&topic));
    member.until("the partition", |member| member.held().len() == 1);
    let held = member.held().remove(0);
    let partition = topic.partition(0);
    assert_eq!(member.committed(&partition), None);
    let metadata = "{\"end\":7,\"ö\":\"".to_string() + &"x".repeat(4000) + "\"}";
    block_on(member.coordinator.commit(held.clone(), 3, metadata.clone())).expect("committed");
    assert_eq!(member.committed(&partition), Some((3, metadata.clone())));
    block_on(member.coordinator.commit(held.clone(), 4, "y".repeat(4096))).expect("4096 bytes are taken");
    let refused = block_on(member.coordinator.commit(held.clone(), 5, "y".repeat(4097)));
    assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    assert_eq!(member.committed(&partition), Some((4, "y".repeat(4096))), "nothing changed");

    member.source.rejoin();
    assert!(!member.coordinator.is_held(&held), "dead at once");
    member.until("the loss", |member| member.log.lost == [topic.partition(0)]);
    member.until("the partition again", |member| member.held().len() == 1);
    let again = member.held().remove(0);
    assert_ne!(again.assignment, held.assignment);
    let stale = block_on(member.coordinator.commit(held, 9, String::new()));
    assert_eq!(stale, Err(CommitError::NotHeld));
    assert_eq!(member.committed(&partition).map(|(offset, _)| offset), Some(4));
    block_on(member.coordinator.commit(again, 6, String::new())).expect("the new assignment may");
    assert_eq!(member.committed(&partition), Some((6, String::new())), "no metadata clears the earlier one");
    member.close();
}

/// Goal: an orderly revoke lets a planned batch be committed, and what is revoked is dead afterwards.
/// Method: hold a guard while a second member joins; commit from another thread once the revoke must be waiting.
#[test]
fn an_orderly_revoke_waits_for_planned_batches() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("grace", 2);
        topic.produce(0, 0, 10);
        let mut config = config(&topic.name);
        config.protocol = protocol;
        config.revoke_grace = Duration::from_secs(20);
        let mut first = Member::join(config.clone(), wanted(&topic));
        first.until("both partitions", |member| member.held().len() == 2);
        let held = first.held();
        let coordinator = first.coordinator.clone();
        let guards: Vec<_> = held.iter().map(|one| coordinator.planned(one)).collect();
        let committed = std::thread::spawn({
            let held = held.clone();
            let coordinator = coordinator.clone();
            move || {
                let results: Vec<_> =
                    held.iter().map(|one| block_on(coordinator.commit(one.clone(), 5, "done".into()))).collect();
                drop(guards);
                results
            }
        });
        let mut second = Member::join(config, wanted(&topic));
        both_until("one each", &mut first, &mut second, |first, second| {
            first.held().len() == 1 && second.held().len() == 1
        });
        let results = committed.join().expect("no panic");
        assert!(results.iter().all(Result::is_ok), "{protocol:?}: {results:?}");
        let gone = held.iter().find(|one| !first.held().contains(one)).expect("one was revoked");
        assert!(!coordinator.is_held(gone));
        assert_eq!(block_on(coordinator.commit(gone.clone(), 9, String::new())), Err(CommitError::NotHeld));
        assert_eq!(first.committed(&gone.partition), Some((5, "done".to_string())));
        second.close();
        first.close();
    }
}

/// Goal: ends lie behind markers and aborted records; the readable end stops at an open transaction, the end does not.
#[test]
fn transactions_show_in_ends_and_bounds() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("transactions", 1);
    let partition = topic.partition(0);
    let producer = topic.transactional();
    topic.in_transaction(&producer, 0, 10); // 0 to 9, marker 10
    producer.commit();
    topic.in_transaction(&producer, 0, 6); // 11 to 16, marker 17
    producer.abort();
    let mut member = Member::join(config(&topic.name), wanted(&topic));
    member.log.gaps = true;
    member.until("the end", |member| member.end(&partition) == Some(18));
    assert_eq!(member.log.offsets(&partition), Vec::from_iter(0..10));
    let bounds = block_on(member.coordinator.log_bounds(partition.clone())).expect("bounds");
    assert_eq!((bounds.start, bounds.readable_end, bounds.end), (0, 18, 18));

    topic.in_transaction(&producer, 0, 4); // 18 to 21, open
    let bounds = block_on(member.coordinator.log_bounds(partition.clone())).expect("bounds");
    assert_eq!((bounds.start, bounds.readable_end, bounds.end), (0, 18, 22), "an open transaction");
    let held = member.held().remove(0);
    member.source.pause(&held);
    producer.commit(); // marker 22
    member.source.resume(&held);
    member.until("the end", |member| member.end(&partition) == Some(23));
    assert_eq!(member.log.offsets(&partition), Vec::from_iter((0..10).chain(18..22)));
    assert_eq!(member.log.faults, Vec::<String>::new());

    let mut uncommitted = config(&topic.name);
    uncommitted.isolation = Isolation::ReadUncommitted;
    uncommitted.group += "-uncommitted";
    topic.in_transaction(&producer, 0, 2); // 23, 24, open
    let meta = MetaClient::new(&uncommitted).expect("client");
    let bounds = meta.log_bounds(&partition).expect("bounds");
    assert_eq!((bounds.start, bounds.readable_end, bounds.end), (0, 25, 25));
    producer.abort();
    member.close();
}

/// Goal: topics that match a pattern, exact names that did not exist, and new partitions are read within 60 s, by both
/// protocols, and without disturbing what is held. One test for all, because each wait is long.
#[test]
fn new_topics_and_partitions_are_found() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("found", 1);
    let late = format!("{}-late", topic.name);
    let exact = format!("exact-{}", topic.name);
    let mut members: Vec<Member> = [GroupProtocol::Classic, GroupProtocol::Consumer]
        .into_iter()
        .map(|protocol| {
            let mut config = config(&topic.name);
            config.protocol = protocol;
            config.group += &format!("-{protocol:?}");
            let prefix = topic.name.clone();
            let matches = Box::new(move |name: &str| name.starts_with(&prefix));
            Member::join(config, Wanted { names: vec![exact.clone()], matches })
        })
        .collect();
    members.iter_mut().for_each(|member| member.until("the first partition", |member| member.held().len() == 1));
    let first: Vec<_> = members.iter().map(|member| member.held().remove(0)).collect();
    for member in &members {
        let named = format!("topic {exact} does not exist");
        assert!(member.log.troubles.iter().any(|what| what.starts_with(&named)), "{:?}", member.log.troubles);
    }
    let late = Topic::create_named(&late, 1);
    let exact = Topic::create_named(&exact, 1);
    topic.grow(2);
    late.produce(0, 0, 3);
    exact.produce(0, 0, 3);
    topic.produce(1, 0, 3);
    let fresh = [late.partition(0), exact.partition(0), topic.partition(1)];
    let (left, right) = members.split_at_mut(1);
    both_within(Duration::from_secs(60), "everything new", &mut left[0], &mut right[0], |one, other| {
        fresh.iter().all(|partition| one.next(partition) == 3 && other.next(partition) == 3)
    });
    for (member, first) in members.iter_mut().zip(first) {
        assert!(member.coordinator.is_held(&first), "held all the time");
        assert_eq!(member.log.faults, Vec::<String>::new());
        member.close();
    }
}

/// Goal: joining again in the middle of reading loses and doubles nothing for one who starts at what was committed, as
/// a static member too.
#[test]
fn rejoining_while_reading_goes_on_from_the_committed_offset() {
    for (protocol, instance) in [
        (GroupProtocol::Classic, None),
        (GroupProtocol::Consumer, None),
        (GroupProtocol::Classic, Some("one".to_string())),
        (GroupProtocol::Consumer, Some("one".to_string())),
    ] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("rejoins", 2);
        (0..2).for_each(|partition| topic.produce(partition, 0, 3_000));
        let mut config = config(&topic.name);
        config.protocol = protocol;
        config.instance_id = instance;
        let mut archiver = Archiver::join(config, wanted(&topic));
        for round in 1..=4 {
            archiver.until("some more", |one| one.archived.len() > round * 1_000);
            archiver.member.source.rejoin();
        }
        archiver.until("everything", |one| one.archived.len() >= 6_000);
        archiver.archived.sort();
        let expected: Vec<(i32, i64)> = (0..2).flat_map(|part| (0..3_000).map(move |at| (part, at))).collect();
        assert!(archiver.archived == expected, "{protocol:?}: {}", difference(&archiver.archived, &expected));
        archiver.member.close();
    }
}

/// Goal: a member that was away for too long can commit nothing, hears that it lost everything, and comes back; what its
/// successor committed stays.
/// Method: the first member is not polled until the second one has its partition and has committed.
fn away_too_long(protocol: GroupProtocol, settings: &[(&str, &str)]) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("away", 1);
    topic.produce(0, 0, 10);
    let partition = topic.partition(0);
    let mut config = config(&topic.name);
    config.protocol = protocol;
    let mut impatient = config.clone();
    for (key, value) in settings {
        impatient.client.insert((*key).to_string(), Secret::new(*value));
    }
    let mut first = Member::join(impatient, wanted(&topic));
    first.until("the partition", |member| member.next(&partition) == 10);
    let held = first.held().remove(0);
    block_on(first.coordinator.commit(held.clone(), 5, "first".into())).expect("committed");
    let mut second = Member::join(config, wanted(&topic));
    second.until("the partition", |member| member.next(&partition) == 10);
    let theirs = second.held().remove(0);
    block_on(second.coordinator.commit(theirs, 8, "second".into())).expect("committed");
    let stale = block_on(first.coordinator.commit(held.clone(), 6, "stale".into()));
    assert!(matches!(stale, Err(CommitError::Fenced(_) | CommitError::NotHeld)), "{stale:?}");
    assert!(!first.coordinator.is_held(&held));
    both_until("the loss", &mut first, &mut second, |first, _| first.log.lost == [partition.clone()]);
    second.close();
    first.until("the partition again", |member| member.held().len() == 1);
    assert_eq!(first.committed(&partition), Some((8, "second".to_string())));
    assert_eq!(first.log.fatals, Vec::<String>::new());
    first.close();
}

#[test]
fn a_member_that_was_away_too_long_has_lost_everything() {
    away_too_long(GroupProtocol::Classic, &[("max.poll.interval.ms", "6000"), ("session.timeout.ms", "6000")]);
}

/// The shortest interval that librdkafka takes with this protocol.
#[test]
fn a_member_of_the_new_protocol_that_was_away_too_long_has_lost_everything() {
    away_too_long(GroupProtocol::Consumer, &[("max.poll.interval.ms", "45000")]);
}

/// Goal: null and empty keys and values, headers with repeats and nulls, and timestamps arrive as they were written.
#[test]
fn a_record_arrives_as_it_was_written() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("shapes", 1);
    let shapes = shapes();
    shapes.iter().for_each(|shape| topic.produce_shape(shape));
    let mut member = Member::join(config(&topic.name), wanted(&topic));
    member.log.keep = true;
    member.until("all of them", |member| member.log.kept.len() == shapes.len());
    for (index, (kept, shape)) in member.log.kept.iter().zip(&shapes).enumerate() {
        let expected =
            siltstone::record::OwnedRecord { topic: topic.name.clone(), offset: index as i64, ..shape.clone() };
        assert_eq!(*kept, expected);
    }
    member.close();
}

/// Goal: cluster id, topic id, offsets by time and the description of the cluster are those of the broker.
#[test]
fn questions_are_answered() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("questions", 2);
    for (at, time_ms) in [1_000, 2_000, 3_000].into_iter().enumerate() {
        let shape = siltstone::record::OwnedRecord { timestamp: Some(time_ms), ..Default::default() };
        topic.produce_shape(&siltstone::record::OwnedRecord { offset: at as i64, ..shape });
    }
    let meta = MetaClient::new(&config(&topic.name)).expect("client");
    let cluster = meta.wait_for_cluster(Duration::from_secs(30)).expect("a cluster");
    assert!(cluster.topics.iter().any(|one| one.name == topic.name && one.partitions == 2));
    assert!(!cluster.id.is_empty());
    assert_eq!(meta.cluster_id().as_deref(), Ok(cluster.id.as_str()));
    assert!(cluster.describe().contains(&cluster.id));
    let id = meta.topic_id(&topic.name).expect("described").expect("Kafka 4 has ids");
    assert_eq!(id.len(), 22, "16 bytes in base64: {id}");
    let recreated = topic.delete_and_create();
    assert_ne!(meta.topic_id(&recreated.name).expect("described"), Some(id));
    let missing = meta.topic_id("no-such-topic").expect_err("unknown");
    assert!(missing.starts_with("describe topic no-such-topic: "), "{missing}");

    for (at, time_ms) in [1_000, 2_000, 3_000].into_iter().enumerate() {
        let shape = siltstone::record::OwnedRecord { timestamp: Some(time_ms), ..Default::default() };
        recreated.produce_shape(&siltstone::record::OwnedRecord { offset: at as i64, ..shape });
    }
    let partition = recreated.partition(0);
    let times = [(0, Some(0)), (1_000, Some(0)), (1_001, Some(1)), (3_000, Some(2)), (3_001, None)];
    for (time_ms, expected) in times {
        assert_eq!(meta.offset_at_time(&partition, time_ms), Ok(expected), "{time_ms}");
    }
    assert_eq!(meta.offset_at_time(&recreated.partition(1), 0), Ok(None), "an empty partition");
    let unknown = meta.log_bounds(&TopicPartition::new("no-such-topic", 0)).expect_err("unknown");
    assert!(unknown.starts_with("ask for the bounds of no-such-topic/0: "), "{unknown}");
}

/// Goal: records deleted before they were read are reported, and their partition is read again from the log's start, alone:
/// no other partition loses its assignment, a record, or a commit.
/// Method: delete what partition 0 was about to read, again and again; partition 1 is read all the time.
#[test]
fn deleted_records_are_out_of_range_and_the_partition_comes_back() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("deleted", 2);
        let (partition, other) = (topic.partition(0), topic.partition(1));
        let mut config = config(&topic.name);
        config.protocol = protocol;
        let mut member = Member::join(config, wanted(&topic));
        member.log.gaps = true;
        member.until("both partitions", |member| member.held().len() == 2);
        let held = member.held();
        let mut expected = Vec::new();
        for round in 0..5 {
            let (first, start) = (round * 100, round * 100 + 60);
            member.source.pause(&held[0]);
            topic.produce(0, first, 100);
            topic.produce(1, first, 100);
            topic.delete_records(0, start);
            member.source.resume(&held[0]);
            member.until("the news", |member| member.log.out_of_range.remove(&partition));
            let bounds = block_on(member.coordinator.log_bounds(partition.clone())).expect("bounds");
            assert_eq!((bounds.start, bounds.end), (start, first + 100));
            member.start(&held[0], start);
            expected.extend(start..first + 100);
            member.until("the rest", |member| {
                member.end(&partition) == Some(first + 100) && member.end(&other) == Some(first + 100)
            });
            block_on(member.coordinator.commit(held[1].clone(), first + 100, String::new())).expect("committed");
        }
        // A revoke or a loss would have taken the lists away as well.
        assert_eq!(member.log.offsets(&partition), expected, "{protocol:?}");
        assert_eq!(member.log.offsets(&other), Vec::from_iter(0..500), "{protocol:?}");
        assert_eq!(member.held(), held, "{protocol:?}: the same assignments");
        assert!(held.iter().all(|one| member.coordinator.is_held(one)), "{protocol:?}");
        assert_eq!((&member.log.faults, &member.log.lost), (&Vec::new(), &Vec::new()), "{protocol:?}");
        member.close();
    }
}

/// Goal: every way to log in works, for reading as well as for asking.
#[test]
fn tls_and_logins_work() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("secure", 1);
    topic.produce(0, 0, 5);
    let ways = [
        scram("SCRAM-SHA-512", "archiver", "arch-secret"),
        scram("SCRAM-SHA-256", "archiver", "arch-secret"),
        scram("PLAIN", "plainuser", "plain-secret"),
        mutual_tls(),
    ];
    for way in ways {
        let name = way.name.clone();
        let mut config = secured(&topic.name, way);
        config.group += &name;
        MetaClient::new(&config).expect("client").wait_for_cluster(Duration::from_secs(30)).expect(&name);
        let mut member = Member::join(config, wanted(&topic));
        member.until(&name, |member| member.next(&topic.partition(0)) == 5);
        let held = member.held().remove(0);
        block_on(member.coordinator.commit(held, 5, String::new())).expect(&name);
        member.close();
    }
}

/// Goal: a wrong password, a wrong protocol, an unknown authority and a dead port each say what to check, and no secret.
#[test]
fn faults_of_the_connection_say_what_to_check() {
    let topic = "irrelevant";
    let mut cases = vec![
        ("wrong password", secured(topic, scram("SCRAM-SHA-512", "archiver", "hush-hush")), "check sasl.mechanism"),
        (
            "no authority",
            secured(topic, scram("PLAIN", "plainuser", "plain-secret").without("ssl.ca.location")),
            "check ssl.ca.location",
        ),
        (
            "no certificate",
            secured(topic, mutual_tls().without("ssl.certificate.location").without("ssl.key.location")),
            "ssl.certificate.location",
        ),
    ];
    let mut plain = config(topic);
    plain.brokers = env("KAFKA_SASL_BROKERS");
    cases.push(("plain to a TLS port", plain, "check that security.protocol"));
    let mut dead = config(topic);
    dead.brokers = "127.0.0.1:1".to_string();
    cases.push(("dead port", dead, "check that the broker runs"));
    let mut nowhere = config(topic);
    nowhere.brokers = "no-such-host.invalid:9092".to_string();
    cases.push(("unknown host", nowhere, "the host name is not known here"));
    let check = |(name, config, expected): (&str, siltstone::config::KafkaConfig, &str)| {
        let meta = MetaClient::new(&config).expect("client");
        let error = meta.wait_for_cluster(Duration::from_secs(6)).expect_err(name).to_string();
        let starts = match name {
            "wrong password" => format!("Kafka at {} does not let this user in: ", config.brokers),
            _ => format!("no answer from Kafka at {} within 6 s: ", config.brokers),
        };
        assert!(error.starts_with(&starts), "{name}: {error}");
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains("hush-hush") && !error.contains("plain-secret"), "{name}: {error}");
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = cases.into_iter().map(|case| scope.spawn(move || check(case))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("the case above failed"));
    });
}

/// Goal: the source itself reports an unreachable broker, stays prompt, and closes within its deadline.
#[test]
fn a_source_without_a_broker_reports_it_and_closes_in_time() {
    let mut config = config("irrelevant");
    config.brokers = "127.0.0.1:1".to_string();
    let mut member = Member::join(config, Wanted { names: vec!["irrelevant".into()], matches: Box::new(|_| false) });
    member
        .until("a report", |member| member.log.troubles.iter().any(|what| what.contains("check that the broker runs")));
    member.source.close(Duration::from_secs(5));
}

/// Goal: of two live processes with the same instance id one is told that it can never go on.
#[test]
fn a_second_process_with_the_same_instance_id_is_fatal_for_one() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("static", 1);
        let mut config = config(&topic.name);
        config.protocol = protocol;
        config.instance_id = Some("one".to_string());
        let mut first = Member::join(config.clone(), wanted(&topic));
        first.until("the partition", |member| member.held().len() == 1);
        let mut second = Member::join(config, wanted(&topic));
        both_until("one is told", &mut first, &mut second, |first, second| {
            !first.log.fatals.is_empty() || !second.log.fatals.is_empty()
        });
        second.close();
        first.close();
    }
}

/// Goal: while no records are taken, rebalances are still served, and nothing is lost afterwards.
#[test]
fn a_source_that_takes_no_records_still_serves_the_group() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("held", 2);
    (0..2).for_each(|partition| topic.produce(partition, 0, 500));
    let config = config(&topic.name);
    let mut first = Member::join(config.clone(), wanted(&topic));
    first.take = false;
    first.until("both partitions", |member| member.held().len() == 2);
    let mut second = Member::join(config, wanted(&topic));
    both_until("one each", &mut first, &mut second, |first, second| {
        first.held().len() == 1 && second.held().len() == 1
    });
    assert!((0..2).all(|number| first.log.offsets(&topic.partition(number)).is_empty()));
    first.take = true;
    let kept = first.held().remove(0).partition;
    both_until("its records", &mut first, &mut second, |first, _| first.next(&kept) == 500);
    second.close();
    first.close();
}
