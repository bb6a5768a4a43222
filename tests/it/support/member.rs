//! Members of a group as the broker sees them, and a stranger among them.

use super::kafka::Topic;
use super::{DEADLINE, setting, until};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::Duration;

/// Ids of the members of a group whose members are agreed, once there are `count` of them.
pub(crate) fn members(group: &str, count: usize) -> BTreeSet<String> {
    let asking = super::kafka::member(group);
    until(&format!("{count} members of {group}"), DEADLINE, || {
        let groups = asking.fetch_group_list(Some(group), Duration::from_secs(10)).ok()?;
        let found = groups.groups().iter().find(|found| found.name() == group)?;
        let ids: BTreeSet<String> = found.members().iter().map(|member| member.id().to_string()).collect();
        (found.state() == "Stable" && ids.len() == count).then_some(ids)
    })
}

/// Commits an offset into a group that is at work: Kafka refuses that to everybody but a member, and asks no member
/// whether the partition is its own. The stranger joins with a topic of its own, and is gone afterwards.
pub(crate) fn commit_as_member(group: &str, topic: &Topic, offsets: &[(i32, i64, &str)]) {
    let own = Topic::create(1);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", setting("KAFKA_BROKERS"))
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .create()
        .expect("a consumer");
    consumer.subscribe(&[&own.name]).expect("subscribed");
    until("the stranger has its partition", DEADLINE, || {
        drop(consumer.poll(Duration::from_millis(20)));
        (consumer.assignment().expect("an assignment").count() == 1).then_some(())
    });
    let mut wanted = TopicPartitionList::new();
    for &(partition, offset, metadata) in offsets {
        let mut place = wanted.add_partition(&topic.name, partition);
        place.set_offset(Offset::Offset(offset)).expect("an offset");
        place.set_metadata(metadata);
    }
    until("the stranger has committed", DEADLINE, || {
        drop(consumer.poll(Duration::from_millis(20)));
        consumer.commit(&wanted, CommitMode::Sync).ok()
    });
}
