//! Goal: to take a compaction back, or to give one up, never costs a row. Method: as in the module above.

use super::*;
use bytes::Bytes;

/// One hour of one Kafka partition in three objects, of which the last comes late.
struct Hour {
    world: World,
    config: Config,
    /// What was archived.
    old: BTreeMap<String, Bytes>,
}

impl Hour {
    /// Compacted once, and then with one more object.
    async fn compacted_and_late() -> Self {
        let world = World::new();
        let config =
            world.config(&format!("{BY_TIME}{}", output("json", "type = \"json\", compression = \"none\"", "")));
        let mut hour = Self { world, config, old: BTreeMap::new() };
        hour.archive(0).await;
        hour.archive(10).await;
        compact(&hour.world, &hour.config, "").await;
        hour.archive(20).await;
        hour
    }

    async fn archive(&mut self, first: i64) {
        let records: Vec<OwnedRecord> = (first..first + 10).map(|offset| record(0, offset, BASE_MS + offset)).collect();
        let before = data_keys(&self.world).await;
        self.world.archived(&self.config, (first, first + 10), &records).await;
        for key in data_keys(&self.world).await.difference(&before) {
            let object = self.world.main.get(&Path::from(key.as_str())).await.expect("there");
            self.old.insert(key.clone(), object.bytes().await.expect("read"));
        }
    }

    async fn put_back(&self, count: usize) {
        for (key, bytes) in self.old.iter().take(count) {
            self.world.main.put(&Path::from(key.as_str()), bytes.clone().into()).await.expect("put");
        }
    }

    async fn rows(&self) -> Ran {
        self.world.run(&self.config, "cat --topic t --order offset").await
    }

    async fn undo(&self, line: &str) -> Vec<Value> {
        compact_at_later(&self.world, &self.config, format!("{line} --json")).await.done().json()
    }

    /// Dies right behind its claim.
    async fn die(&self) {
        assert!(compact_at(&self.config, mortal(&self.world, 0, true), LATER_MS, "--before 2d").await.exit.is_err());
    }
}

/// Goal: giving up a claim leaves an earlier compaction of the same unit as it is, however it is named; and does so when it is said again.
#[tokio::test]
async fn giving_up_a_claim_touches_nothing_but_it() {
    let hour = Hour::compacted_and_late().await;
    let (before, keys) = (hour.rows().await.done().out, data_keys(&hour.world).await);
    assert_eq!((keys.len(), before.lines().count()), (2, 30));
    hour.die().await;
    // Another release makes other bytes of it: the late object is another one for a while.
    let late = hour.old.last_key_value().expect("the late one").0.clone();
    hour.world.main.put(&Path::from(late.as_str()), "other".into()).await.expect("put");
    let ran = compact_at_later(&hour.world, &hour.config, "--before 2d --json".to_string()).await;
    let stopped = ran.json().into_iter().find(|line| line["step"] == "stopped").expect("told");
    let (why, unit) = (stopped["why"].as_str().expect("why"), stopped["unit"].as_str().expect("a unit"));
    assert!(why.ends_with(&format!("siltstone compact --undo {unit}.2 --yes")), "the advice is exact: {why}");
    hour.put_back(3).await;
    let dry = hour.undo(&format!("--undo {unit}.2")).await;
    assert!(dry.len() == 2 && dry[0]["given_up"] == true && dry[0]["n"] == 2, "{dry:?}");
    for line in [format!("--undo {unit}.2 --yes"), format!("--undo {unit} --yes"), format!("--undo {unit} --yes")] {
        let told = hour.undo(&line).await;
        assert_eq!((told.len(), &told[0]["n"], &told[0]["kept"]), (2, &2.into(), &serde_json::json!([])), "{told:?}");
        assert_eq!(hour.rows().await.done().out, before, "{line}");
    }
    compact(&hour.world, &hour.config, "--sweep").await;
    assert_eq!(hour.rows().await.done().out, before);
    // Each undo has held a number.
    assert!(data_keys(&hour.world).await.iter().all(|key| key.contains("+compact-6")));
    assert_clean(&hour.world, &hour.config, "given up").await;
}

/// Goal: what a claim has put is deleted when it is given up, but not while it may be the only copy of its rows.
#[tokio::test]
async fn what_a_claim_has_put_stays_while_an_input_is_gone() {
    let hour = Hour::compacted_and_late().await;
    let before = hour.rows().await.done().out;
    // The claim and the new object.
    assert!(compact_at(&hour.config, mortal(&hour.world, 1, true), LATER_MS, "--before 2d").await.exit.is_err());
    let new = data_keys(&hour.world).await.into_iter().find(|key| key.contains("+compact-2")).expect("put");
    let (late, bytes) = hour.old.last_key_value().expect("the late one");
    hour.world.main.delete(&Path::from(late.as_str())).await.expect("lost");
    let told = hour.undo(&format!("--undo {new} --yes")).await;
    assert_eq!((&told[0]["kept"], &told[0]["keys"]), (&serde_json::json!([new]), &serde_json::json!([])), "{told:?}");
    assert!(data_keys(&hour.world).await.contains(&new));
    hour.world.main.put(&Path::from(late.as_str()), bytes.clone().into()).await.expect("put");
    let told = hour.undo(&format!("--undo {new} --yes")).await;
    assert_eq!(told[0]["keys"], serde_json::json!([new]), "{told:?}");
    assert!(!data_keys(&hour.world).await.contains(&new));
    assert_eq!(hour.rows().await.done().out, before);
}

/// Goal: a compaction that is taken back while its inputs are gone stays in the bucket, is told, and goes once all of them are there again.
#[tokio::test]
async fn a_new_object_stays_until_the_old_ones_are_back() {
    let hour = Hour::compacted_and_late().await;
    compact(&hour.world, &hour.config, "").await;
    let (before, keys) = (hour.rows().await.done().out, data_keys(&hour.world).await);
    let key = keys.first().expect("one object").clone();
    assert!(keys.len() == 1 && key.contains("+compact-2"), "{keys:?}");
    let told = hour.undo(&format!("--undo {key} --yes")).await;
    assert_eq!((&told[0]["n"], &told[1]["n"], &told[2]["undone"]), (&2.into(), &1.into(), &2.into()), "{told:?}");
    assert_eq!((&told[0]["kept"], &told[2]["kept"]), (&serde_json::json!([key]), &1.into()));
    for back in 0..3 {
        hour.put_back(back).await;
        compact(&hour.world, &hour.config, "--dry-run").await;
        hour.undo(&format!("--undo {key} --yes")).await;
        assert!(data_keys(&hour.world).await.contains(&key), "{back} of three are back");
        let (findings, _, verified) = verified(&hour.world, &hour.config).await;
        let of = |kind: Kind| findings.iter().filter(|finding| finding.kind() == kind).count();
        assert_eq!((of(Kind::Missing), of(Kind::Unvouched), findings.len()), (3 - back, 1, 4 - back), "{findings:#?}");
        let stranger = findings.iter().find(|finding| finding.kind() == Kind::Unvouched).expect("it").what();
        assert!(stranger.contains("taken back") && stranger.contains("only copy"), "{stranger}");
        assert_eq!(verified.repairs.values().map(Vec::len).sum::<usize>(), 1);
    }
    hour.put_back(3).await;
    let done = compact(&hour.world, &hour.config, "").await;
    assert_eq!((&summary(&done)["undone"], &summary(&done)["compactions"]), (&1.into(), &1.into()), "{}", done.out);
    let keys = data_keys(&hour.world).await;
    assert!(keys.len() == 1 && keys.iter().all(|key| key.contains("+compact-7")), "{keys:?}");
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "compacted again").await;
}

/// Goal: inputs that another release has archived again with other bytes are the same rows, where their receipts say so.
#[tokio::test]
async fn inputs_of_another_release_count() {
    let hour = Hour::compacted_and_late().await;
    let key = data_keys(&hour.world).await.into_iter().find(|key| key.contains("+compact-1")).expect("it");
    hour.undo(&format!("--undo {key} --yes")).await;
    hour.put_back(3).await;
    let (old, bytes) = hour.old.first_key_value().expect("an object");
    let other = [bytes.as_ref(), b"\n"].concat();
    hour.world.main.put(&Path::from(old.as_str()), other.clone().into()).await.expect("put");
    hour.undo(&format!("--undo {key} --yes")).await;
    assert!(data_keys(&hour.world).await.contains(&key), "nobody vouches for it");
    let bucket = Bucket::new(hour.world.destinations()[URL].clone());
    let partition = TopicPartition::new("t", 0);
    let mut receipt = bucket.get_receipt(&partition, 0).await.expect("read").expect("there");
    receipt.objects[0].bytes = other.len() as u64;
    let mut keys = hour.world.keys().await.into_iter();
    let path = keys.rfind(|key| key.as_ref().ends_with("/00000000000000000000.json")).expect("its receipt");
    let text = serde_json::to_vec(&receipt).expect("JSON");
    hour.world.main.put(&path, text.into()).await.expect("put");
    hour.undo(&format!("--undo {key} --yes")).await;
    assert!(!data_keys(&hour.world).await.contains(&key));
}
