//! Faults of the network and of time: a broker that is gone for a while, a commit that hangs, a revoke that lasts.

use super::proxy::{JOIN_GROUP, OFFSET_COMMIT, Proxy};
use super::support::*;
use futures::executor::block_on;
use siltstone::clock::{Clock, SystemClock};
use siltstone::config::{GroupProtocol, KafkaConfig, Secret};
use siltstone::consume::{CommitError, Coordinator, Held, Source};
use std::thread::JoinHandle;
use std::time::Duration;

fn behind(proxy: &Proxy, topic: &Topic, protocol: GroupProtocol) -> KafkaConfig {
    let mut config = KafkaConfig { brokers: proxy.brokers(), protocol, ..config(&topic.name) };
    // Back as soon as the broker is: a session must not end first.
    config.client.insert("reconnect.backoff.max.ms".to_string(), Secret::new("500"));
    config
}

fn commit_aside(member: &Member, held: &Held, offset: i64) -> JoinHandle<Result<(), CommitError>> {
    let (coordinator, held) = (member.coordinator.clone(), held.clone());
    std::thread::spawn(move || block_on(coordinator.commit(held, offset, "aside".to_string())))
}

/// Drives `member` for `time`, checking all the while that nothing changes.
fn for_a_while(member: &mut Member, time: Duration, mut unchanged: impl FnMut(&Member) -> bool, what: &str) {
    let clock = SystemClock::new();
    while clock.monotonic_ms() < time.as_millis() as i64 {
        member.poll();
        assert!(unchanged(member), "{what} after {} ms: {}", clock.monotonic_ms(), member.state());
    }
}

/// Goal: brokers that are gone for some seconds cost time, not records: reading goes on at the very next one under the
/// same assignment, and the fault is reported.
/// Method: cut in the middle of 20,000 records, write more meanwhile, come back; the log checks that every record is the next.
#[test]
fn a_short_outage_is_reported_and_costs_no_record() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("outage", 2);
        let mut proxy = Proxy::start();
        (0..2).for_each(|partition| topic.produce(partition, 0, 10_000));
        let mut member = Member::join(behind(&proxy, &topic, protocol), wanted(&topic));
        member.until("some records", |member| member.next(&topic.partition(0)) > 1_000);
        let held = member.held();
        proxy.cut();
        (0..2).for_each(|partition| topic.produce(partition, 10_000, 500));
        member.until("the report", |member| {
            member.log.troubles.iter().any(|what| what.contains("check that the broker runs"))
        });
        for_a_while(&mut member, Duration::from_secs(3), |member| member.held() == held, "another assignment");
        proxy.restore();
        member.until("all records", |member| (0..2).all(|number| member.next(&topic.partition(number)) == 10_500));
        assert_eq!(member.held(), held, "{protocol:?}: the same assignment all the time");
        assert_eq!(member.log.faults, Vec::<String>::new(), "{protocol:?}");
        let committed = block_on(member.coordinator.commit(held[0].clone(), 7, String::new()));
        assert_eq!(committed, Ok(()), "{protocol:?}");
        member.close();
    }
}

/// Goal: an outage that outlasts the session is a loss, and reading goes on from what was committed.
#[test]
fn a_long_outage_is_a_loss_and_goes_on_from_the_committed_offset() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("long-outage", 1);
    let partition = topic.partition(0);
    let mut proxy = Proxy::start();
    topic.produce(0, 0, 1_000);
    let mut config = behind(&proxy, &topic, GroupProtocol::Classic);
    config.client.insert("session.timeout.ms".to_string(), Secret::new("6000"));
    let mut member = Member::join(config, wanted(&topic));
    member.until("the records", |member| member.next(&partition) == 1_000);
    let held = member.held().remove(0);
    block_on(member.coordinator.commit(held.clone(), 400, String::new())).expect("committed");
    proxy.cut();
    topic.produce(0, 1_000, 10);
    member.until("the loss", |member| member.log.lost == [partition.clone()]);
    assert!(!member.coordinator.is_held(&held));
    assert_eq!(block_on(member.coordinator.commit(held, 900, String::new())), Err(CommitError::NotHeld));
    proxy.restore();
    member.until("the end", |member| member.end(&partition) == Some(1_010));
    assert_eq!(member.log.offsets(&partition), Vec::from_iter(400..1_010));
    assert_eq!(member.log.faults, Vec::<String>::new());
    member.close();
}

/// Goal: no new member joins while a commit of the old one is under way (G-1), and it then starts behind that commit.
/// Method: the proxy holds the commit back on its connection; other connections work, so a new member could join at once.
#[test]
fn a_new_member_waits_for_the_commit_of_the_old_one() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("hanging", 1);
        let partition = topic.partition(0);
        topic.produce(0, 0, 10);
        let proxy = Proxy::start();
        let mut member = Member::join(behind(&proxy, &topic, protocol), wanted(&topic));
        member.until("the records", |member| member.next(&partition) == 10);
        let held = member.held().remove(0);
        proxy.hold(OFFSET_COMMIT);
        let hanging = commit_aside(&member, &held, 5);
        member.until("the commit on its way", |_| proxy.held() == 1);
        member.source.rejoin();
        let joins = || proxy.requests(JOIN_GROUP);
        let before = joins();
        assert!(before > 0);
        for_a_while(&mut member, Duration::from_secs(5), |_| joins() == before, "a new member joined");
        assert!(!hanging.is_finished());
        proxy.release();
        member.until("the partition again", |member| member.end(&partition) == Some(10));
        assert!(joins() > before);
        assert_eq!(hanging.join().expect("no panic"), Ok(()), "{protocol:?}: sent while it was held, so it counts");
        assert_eq!(member.log.offsets(&partition), Vec::from_iter(5..10), "{protocol:?}: behind the late commit");
        assert_eq!(member.log.faults, Vec::<String>::new(), "{protocol:?}");
        member.close();
    }
}

/// Goal: a commit that hangs for longer than a new member waits holds up every other commit of this process, so it cannot
/// come after one of them.
/// Method: as above, until the new member has joined beside the old one, whose place it takes by the instance id.
#[test]
fn a_commit_that_hangs_for_long_is_not_overtaken() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let topic = Topic::create("hanging-long", 1);
    let partition = topic.partition(0);
    topic.produce(0, 0, 10);
    let proxy = Proxy::start();
    let mut config = behind(&proxy, &topic, GroupProtocol::Classic);
    config.instance_id = Some("one".to_string());
    let mut member = Member::join(config, wanted(&topic));
    member.until("the records", |member| member.next(&partition) == 10);
    let held = member.held().remove(0);
    proxy.hold(OFFSET_COMMIT);
    let hanging = commit_aside(&member, &held, 5);
    member.until("the commit on its way", |_| proxy.held() == 1);
    member.source.rejoin();
    let clock = SystemClock::new();
    member.until("the loss", |member| member.held().is_empty());
    member.until("the partition again", |member| !member.held().is_empty());
    let waited = clock.monotonic_ms();
    let overdue = member.log.troubles.iter().any(|what| what.contains("the old membership has not ended"));
    assert!(overdue, "after {waited} ms, the commit is {}: {:?}", hanging.is_finished(), member.log.troubles);
    let again = member.held().remove(0);
    let next = commit_aside(&member, &again, 8);
    for_a_while(&mut member, Duration::from_secs(2), |_| !next.is_finished() && proxy.held() == 1, "overtaken");
    proxy.release();
    member.until("both answers", |_| hanging.is_finished() && next.is_finished());
    let late = hanging.join().expect("no panic");
    assert!(matches!(late, Err(CommitError::Fenced(_))), "{late:?}");
    assert_eq!(next.join().expect("no panic"), Ok(()));
    assert!(member.coordinator.is_held(&again), "the end of the old member is none of the new one");
    assert_eq!(member.committed(&partition).map(|(offset, _)| offset), Some(8));
    member.close();
}

/// Goal: a revoke waits for planned batches no longer than its grace; what is revoked then is dead, and a commit for it is
/// not even sent.
#[test]
fn a_revoke_that_outlasts_its_grace_goes_on() {
    const GRACE: Duration = Duration::from_secs(2);
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topic = Topic::create("long-plan", 2);
        let proxy = Proxy::start();
        let mut config = behind(&proxy, &topic, protocol);
        config.revoke_grace = GRACE;
        let mut first = Member::join(config.clone(), wanted(&topic));
        first.until("both partitions", |member| member.held().len() == 2);
        let held = first.held();
        let planned: Vec<_> = held.iter().map(|one| first.coordinator.planned(one)).collect();
        let clock = SystemClock::new();
        let mut second = Member::join(config, wanted(&topic));
        both_until("one each", &mut first, &mut second, |first, second| {
            first.held().len() == 1 && second.held().len() == 1
        });
        assert!(clock.monotonic_ms() >= GRACE.as_millis() as i64, "{protocol:?}: the grace was given");
        let kept = first.held().remove(0);
        let gone = held.iter().find(|one| **one != kept).expect("one was revoked");
        assert!(held.contains(&kept) && first.coordinator.is_held(&kept), "{protocol:?}");
        assert!(!first.coordinator.is_held(gone), "{protocol:?}");
        let sent = proxy.requests(OFFSET_COMMIT);
        assert_eq!(block_on(first.coordinator.commit(gone.clone(), 3, String::new())), Err(CommitError::NotHeld));
        assert_eq!(proxy.requests(OFFSET_COMMIT), sent, "{protocol:?}: nothing was sent");
        assert_eq!(first.committed(&gone.partition), None, "{protocol:?}");
        assert_eq!(block_on(first.coordinator.commit(kept, 0, String::new())), Ok(()), "{protocol:?}");
        drop(planned);
        second.close();
        first.close();
    }
}
