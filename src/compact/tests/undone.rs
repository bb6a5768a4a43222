//! Goal: to take a compaction back, or to give one up, never costs a row. Method: as in the module above.

use super::*;
use crate::bucket::compactions::{Compaction, CompactionId};
use crate::compact::chain::LOOK_MS;
use bytes::Bytes;

/// When whoever looked for a mark at [`LATER_MS`] is over.
const RESTED_MS: i64 = LATER_MS + LOOK_MS;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// When a compaction was finished of which nobody deletes anything any more at [`LATER_MS`].
const BEFORE_MS: i64 = LATER_MS - DAY_MS;

/// One hour of one Kafka partition in three objects, of which the last comes late.
struct Hour {
    world: World,
    config: Config,
    /// What was archived.
    old: BTreeMap<String, Bytes>,
    /// Bytes that make each record larger.
    padding: usize,
}

impl Hour {
    /// Compacted once, and then with one more object.
    async fn compacted_and_late() -> Self {
        let mut hour = Self::of(0);
        hour.archive(0).await;
        hour.archive(10).await;
        hour.compact_before("").await;
        hour.archive(20).await;
        hour
    }

    /// Compacted twice, the second time objects that have nothing to do with the first.
    async fn compacted_in_two() -> Self {
        let mut hour = Self::of(2_000);
        for first in [0, 20] {
            hour.archive(first).await;
            hour.archive(first + 10).await;
            hour.compact_before("--target-size 64KiB").await;
        }
        let new = data_keys(&hour.world).await;
        assert!(new.iter().any(|key| key.contains("+compact-1")) && new.iter().any(|key| key.contains("+compact-2")));
        hour
    }

    fn of(padding: usize) -> Self {
        let world = World::new();
        let config =
            world.config(&format!("{BY_TIME}{}", output("json", "type = \"json\", compression = \"none\"", "")));
        Self { world, config, old: BTreeMap::new(), padding }
    }

    async fn archive(&mut self, first: i64) {
        let of = |offset: i64| {
            let mut record = record(0, offset, BASE_MS + offset);
            let (id, padding) = (id(0, offset), "x".repeat(self.padding));
            record.value = Some(format!(r#"{{"id":{id},"time":{},"x":"{padding}"}}"#, BASE_MS + offset).into_bytes());
            record
        };
        let records: Vec<OwnedRecord> = (first..first + 10).map(of).collect();
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
        self.at(LATER_MS, line).await.done().json()
    }

    /// Compacted a day before anything is taken back.
    async fn compact_before(&self, line: &str) {
        let line = format!("--before 2d {line}");
        compact_at(&self.config, self.world.destinations(), BEFORE_MS, &line).await.done();
    }

    async fn at(&self, now_ms: i64, line: &str) -> Ran {
        compact_at(&self.config, self.world.destinations(), now_ms, &format!("{line} --json")).await
    }

    fn bucket(&self) -> Bucket {
        Bucket::new(self.world.destinations()[URL].clone())
    }

    /// The unit.
    async fn unit(&self) -> String {
        let listed = self.bucket().listed_compactions(&TopicPartition::new("t", 0)).await.expect("listed");
        listed.into_keys().next().expect("a compaction").0
    }

    /// Says it in a process that is killed right behind its hold.
    async fn die_holding(&self, of: &str) {
        let line = format!("--undo {of} --yes");
        assert!(compact_at(&self.config, mortal(&self.world, 0, true), LATER_MS, &line).await.exit.is_err());
    }

    /// Says it in a process whose put of a document with that in its name is not answered.
    async fn unanswered(&self, put: &'static str, line: &str) -> Failure {
        let clock = Arc::new(ManualClock::at(LATER_MS));
        let late = at_store(&self.world, Mortal { late: Some((put, clock.clone())), ..Mortal::never() });
        let failure = compact_by(&self.config, late, clock, line).await.exit.expect_err("nobody answers");
        assert_eq!(failure.exit, Exit::Unreachable, "{failure}");
        failure
    }

    /// What a compactor says of a unit that is held.
    async fn held(&self) -> String {
        let ran = self.at(LATER_MS, "--before 2d").await;
        assert_eq!(ran.exit.expect_err("a person must look").exit, Exit::Stopped);
        ran.out
    }

    /// The key of the object of a compaction; `None`: it is not there.
    async fn made(&self, n: u32) -> Option<String> {
        data_keys(&self.world).await.into_iter().find(|key| key.contains(&format!("+compact-{n}.")))
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
    assert!(why.ends_with(&format!("siltstone compact --undo {unit}.2.claim --yes")), "the advice is exact: {why}");
    hour.put_back(3).await;
    for wanted in [format!("{unit}.2"), unit.to_string(), late.clone()] {
        let dry = hour.undo(&format!("--undo {wanted}")).await;
        assert!(dry.len() == 2 && dry[0]["given_up"] == true && dry[0]["n"] == 2, "{dry:?}");
        // What it means now, and not what it may mean then.
        assert_eq!(dry[1]["meant"], serde_json::json!([format!("{unit}.2.claim")]), "{wanted}");
        let said = compact_at_later(&hour.world, &hour.config, format!("--undo {wanted}")).await.done().out;
        assert!(said.contains(&format!("This does it: siltstone compact --undo {unit}.2.claim --yes.")), "{said}");
    }
    for line in [format!("--undo {unit}.2.claim --yes"), format!("--undo {unit} --yes"), format!("--undo {unit} --yes")]
    {
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
    hour.compact_before("").await;
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
    let done = hour.at(RESTED_MS, "--before 2d").await.done();
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
    hour.at(RESTED_MS, &format!("--undo {key} --yes")).await.done();
    assert!(data_keys(&hour.world).await.contains(&key), "nobody vouches for it");
    let bucket = Bucket::new(hour.world.destinations()[URL].clone());
    let partition = TopicPartition::new("t", 0);
    let mut receipt = bucket.get_receipt(&partition, 0).await.expect("read").expect("there");
    receipt.objects[0].bytes = other.len() as u64;
    let mut keys = hour.world.keys().await.into_iter();
    let path = keys.rfind(|key| key.as_ref().ends_with("/00000000000000000000.json")).expect("its receipt");
    let text = serde_json::to_vec(&receipt).expect("JSON");
    hour.world.main.put(&path, text.into()).await.expect("put");
    hour.at(RESTED_MS, &format!("--undo {key} --yes")).await.done();
    assert!(!data_keys(&hour.world).await.contains(&key));
}

/// Goal: who takes a compaction back while its old objects are being deleted costs no row. Method: the compactor is stopped when it has looked for the
/// mark, and goes on when the other one has come to its end.
#[tokio::test]
async fn what_a_compactor_is_about_to_delete_costs_no_row() {
    let hour = Hour::compacted_and_late().await;
    let before = hour.rows().await.done().out;
    let gate = Gate::at("delete");
    let compactor = compact_at(&hour.config, stopped(&hour.world, &gate), LATER_MS, "--before 2d");
    let taken_back = async {
        let new = hour.made(2).await.expect("put");
        let told = hour.undo(&format!("--undo {new} --yes")).await;
        let until = LATER_MS + DAY_MS;
        assert_eq!((&told[0]["kept"], &told[0]["kept_until_ms"]), (&serde_json::json!([new]), &until.into()));
        assert_eq!(data_keys(&hour.world).await.len(), 3, "the late one, and both new ones");
    };
    gate.meanwhile(compactor, taken_back).await.done();
    let new = hour.made(2).await.expect("the only copy of all rows");
    assert_eq!(data_keys(&hour.world).await, BTreeSet::from([new.clone()]));
    hour.put_back(3).await;
    let told = hour.undo(&format!("--undo {new} --yes")).await;
    assert_eq!(told[0]["kept_until_ms"], LATER_MS + DAY_MS, "a compactor beside that one may be as far: {told:?}");
    let done = summary(&hour.at(LATER_MS + DAY_MS, "--before 2d").await.done());
    assert_eq!((&done["undone"], &done["compactions"]), (&1.into(), &1.into()));
    assert!(hour.made(2).await.is_none());
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "compacted again").await;
}

/// Goal: what a compactor that died before its deletes leaves is not kept for ever once it is taken back; and said again in so many words meanwhile.
#[tokio::test]
async fn what_was_never_done_rests_for_as_long_as_uploads_may_stall() {
    let hour = Hour::compacted_and_late().await;
    let before = hour.rows().await.done().out;
    // The claim, the object and the receipt.
    let died = compact_at(&hour.config, mortal(&hour.world, 3, false), LATER_MS, "--before 2d").await;
    assert!(died.exit.is_err());
    let new = hour.made(2).await.expect("put");
    let said = compact_at_later(&hour.world, &hour.config, format!("--undo {new} --yes")).await.done().out;
    assert!(said.contains("to stay until 20") && said.contains(&new), "{said}");
    hour.put_back(3).await;
    let done = summary(&hour.at(RESTED_MS, "--before 2d").await.done());
    assert_eq!((&done["undone"], &done["compactions"]), (&1.into(), &1.into()), "of the first one all is there");
    assert_eq!((hour.made(1).await, hour.made(2).await.as_ref()), (None, Some(&new)));
    assert_eq!(hour.rows().await.done().out, before);
    let done = summary(&hour.at(LATER_MS + DAY_MS, "--before 3d").await.done());
    assert_eq!((&done["undone"], &done["compactions"]), (&1.into(), &0.into()));
    assert!(hour.made(2).await.is_none());
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "a day later").await;
}

/// Goal: sweeping beside one who takes back costs no row. Method: the sweeper is stopped before it looks for the mark, or behind that.
#[tokio::test]
async fn sweeping_looks_for_the_mark_right_before_it_deletes() {
    for (at, is_swept) in [("+compact-1.", false), ("delete", true)] {
        let hour = Hour::compacted_and_late().await;
        hour.put_back(2).await;
        let new = hour.made(1).await.expect("it");
        let gate = Gate::at(at);
        let sweeper = compact_at(&hour.config, stopped(&hour.world, &gate), LATER_MS, "--before 2d --sweep");
        let taken_back = async {
            let told = hour.undo(&format!("--undo {new} --yes")).await;
            let kept = (&told[0]["kept"], &told[0]["kept_until_ms"]);
            assert_eq!(kept, (&serde_json::json!([new]), &RESTED_MS.into()), "{at}");
        };
        let swept = gate.meanwhile(sweeper, taken_back).await;
        assert_eq!(swept.exit.is_ok(), is_swept, "{at}: {}", swept.out);
        let now = data_keys(&hour.world).await;
        assert!(now.contains(&new), "{at}: the only copy, or soon");
        assert_eq!(hour.old.keys().take(2).any(|key| now.contains(key)), !is_swept, "{at}: {now:?}");
    }
}

/// Goal: a unit is not held any more when to take back has failed, and the first error is told.
#[tokio::test]
async fn a_store_that_refuses_leaves_no_unit_held() {
    let hour = Hour::compacted_and_late().await;
    let before = hour.rows().await.done().out;
    // The claim and the new object.
    assert!(compact_at(&hour.config, mortal(&hour.world, 1, true), LATER_MS, "--before 2d").await.exit.is_err());
    let new = hour.made(2).await.expect("put");
    let refusing = at_store(&hour.world, Mortal { no_deletes: true, ..Mortal::never() });
    let refused = compact_at(&hour.config, refusing, LATER_MS, &format!("--undo {new} --yes")).await;
    let failure = refused.exit.expect_err("refused");
    assert!(failure.exit == Exit::Refused && failure.message.contains("delete 1 objects"), "{failure}");
    let done = summary(&compact(&hour.world, &hour.config, "").await);
    assert_eq!((&done["stopped"], &done["undone"], &done["compactions"]), (&0.into(), &1.into(), &1.into()));
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "not held").await;
}

/// Goal: a finished compaction that has lost its receipt gets it again, and nothing else happens, though its object was taken in by another; and where
/// that is not there, the advice is what helps.
#[tokio::test]
async fn a_lost_receipt_is_written_again() {
    let hour = Hour::compacted_and_late().await;
    compact(&hour.world, &hour.config, "").await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    let receipt_of = async |n: u32| {
        let mut keys = hour.world.keys().await.into_iter();
        let found = keys.find(|key| is_end_of(key, &format!("{unit}.{n}.0")));
        found.unwrap_or_else(|| panic!("a receipt of {n}"))
    };
    let both = [receipt_of(1).await, receipt_of(2).await];
    hour.put_back(3).await;
    let keys = data_keys(&hour.world).await;
    for lost in [&both[..1], &both[1..], &both[..]] {
        for path in lost {
            hour.world.main.delete(path).await.expect("lost");
        }
        let dry = summary(&compact(&hour.world, &hour.config, "--dry-run").await);
        assert_eq!((&dry["stopped"], &dry["compactions"]), (&0.into(), &lost.len().into()));
        let done = summary(&compact(&hour.world, &hour.config, "").await);
        assert_eq!(
            (&done["stopped"], &done["compactions"], &done["deleted"]),
            (&0.into(), &lost.len().into(), &0.into())
        );
        assert_eq!([receipt_of(1).await, receipt_of(2).await], both);
        assert_eq!((hour.rows().await.done().out, data_keys(&hour.world).await), (before.clone(), keys.clone()));
    }
    assert_eq!(summary(&compact(&hour.world, &hour.config, "--sweep").await)["deleted"], 3);
    assert_clean(&hour.world, &hour.config, "swept").await;
    hour.world.main.delete(&both[1]).await.expect("lost");
    let new = hour.made(2).await.expect("it");
    hour.world.main.delete(&Path::from(new.as_str())).await.expect("lost as well");
    let ran = hour.at(LATER_MS, "--before 2d").await;
    assert_eq!(ran.exit.expect_err("a person must look").exit, Exit::Stopped);
    let advice = format!("siltstone compact --undo {unit}.2 --yes");
    assert!(ran.out.contains("has lost its receipt") && ran.out.contains(&advice), "{}", ran.out);
    let told = hour.undo(&format!("--undo {unit}.2 --yes")).await;
    assert_eq!((&told[0]["n"], &told[0]["given_up"], &told[1]["n"]), (&2.into(), &false.into(), &1.into()), "{told:?}");
    hour.put_back(3).await;
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "taken back").await;
}

/// Goal: who takes one compaction back does not release what is held for another, and a compactor says what to say.
#[tokio::test]
async fn a_hold_for_another_compaction_stays() {
    let hour = Hour::compacted_in_two().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    hour.die_holding(&format!("{unit}.1")).await;
    let told = hour.undo(&format!("--undo {unit}.2 --yes")).await;
    assert!(told.len() == 2 && told[0]["n"] == 2, "{told:?}");
    let held = hour.held().await;
    let advice = format!("siltstone compact --undo {unit}.1 --yes");
    assert!(held.contains("is being taken back") && held.contains(&advice), "{held}");
    // By the number of the hold nothing is taken back.
    let told = hour.undo(&format!("--undo {unit}.3 --yes")).await;
    assert!(told.len() == 2 && told[0]["n"] == 3 && told[0]["inputs"] == serde_json::json!([]), "{told:?}");
    let told = hour.undo(&format!("--undo {unit}.1 --yes")).await;
    assert!(told.len() == 2 && told[0]["n"] == 1 && told[1]["meant"][0] == format!("{unit}.1"), "{told:?}");
    hour.put_back(4).await;
    let done = summary(&hour.at(RESTED_MS, "--before 2d").await.done());
    assert_eq!((&done["undone"], &done["compactions"]), (&2.into(), &1.into()), "{done}");
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "compacted again").await;
}

/// Goal: a hold of an earlier release, which did not say what it was for, stays until somebody names it, and nothing is taken back then.
#[tokio::test]
async fn a_hold_of_an_earlier_release_is_released_by_its_number() {
    let hour = Hour::compacted_in_two().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    let (bucket, partition) = (hour.bucket(), TopicPartition::new("t", 0));
    let id: CompactionId = (unit.clone(), 2);
    let second = bucket.compaction_claim(&partition, &id).await.expect("read").expect("there");
    let hold = Compaction { n: 3, groups: Vec::new(), ..second };
    assert_eq!(bucket.claim_compaction(&hold).await.expect("claimed"), CompactionOutcome::Created);
    let line = format!("--undo {unit}.3");
    for say in [line.clone(), format!("{line} --yes")] {
        let held = hour.held().await;
        assert!(held.contains("by an earlier release") && held.contains(&format!("{line} --yes")), "{held}");
        let told = hour.undo(&say).await;
        assert!(told.len() == 2 && told[0]["n"] == 3 && told[0]["inputs"] == serde_json::json!([]), "{told:?}");
    }
    assert_eq!(summary(&compact(&hour.world, &hour.config, "--target-size 64KiB").await)["compactions"], 0);
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "released").await;
    assert_eq!(hour.at(LATER_MS, &line).await.exit.expect_err("it is over").exit, Exit::Config);
}

/// Goal: a claim that is being given up is not finished; and where it was nevertheless, nothing is taken back until that is asked for. Method: one who
/// gives it up dies behind his hold, before a compactor comes, and when a compactor has looked for a hold already.
#[tokio::test]
async fn a_claim_that_is_held_is_not_finished_nor_taken_back() {
    let hour = Hour::compacted_and_late().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    hour.die().await;
    hour.die_holding(&format!("{unit}.2")).await;
    let held = hour.held().await;
    assert!(held.contains("is being taken back") && hour.made(2).await.is_none(), "{held}");
    // It is given up as it was meant.
    let told = hour.undo(&format!("--undo {unit}.2 --yes")).await;
    assert!(told.len() == 2 && told[0]["given_up"] == true, "{told:?}");

    let hour = Hour::compacted_and_late().await;
    let unit = hour.unit().await;
    hour.die().await;
    let gate = Gate::at(".2.0");
    let compactor = compact_at(&hour.config, stopped(&hour.world, &gate), LATER_MS, "--before 2d --json");
    let ran = gate.meanwhile(compactor, hour.die_holding(&format!("{unit}.2"))).await;
    assert!(ran.exit.is_err() && hour.made(2).await.is_some(), "{}", ran.out);
    let keys = data_keys(&hour.world).await;
    let ran = hour.at(LATER_MS, &format!("--undo {unit}.2 --yes")).await;
    assert!(ran.out.contains("was finished meanwhile") && !ran.out.contains("\"undone\":1"), "{}", ran.out);
    assert_eq!(ran.exit.expect_err("a person must look").exit, Exit::Stopped);
    assert_eq!((data_keys(&hour.world).await, hour.rows().await.done().out), (keys, before.clone()));
    let done = summary(&compact(&hour.world, &hour.config, "").await);
    assert_eq!((&done["stopped"], &done["undone"], &done["deleted"]), (&0.into(), &0.into(), &2.into()), "not held");
    assert_eq!(hour.rows().await.done().out, before);
    assert_clean(&hour.world, &hour.config, "finished").await;
    let told = hour.undo(&format!("--undo {unit}.2 --yes")).await;
    assert_eq!((&told[0]["n"], &told[1]["n"]), (&2.into(), &1.into()), "now it is meant: {told:?}");
}

/// Goal: a claim that is finished between the look at it and the hold is not taken back. Method: the compactor comes to its end when the other one is
/// about to put his hold.
#[tokio::test]
async fn a_claim_that_was_finished_before_the_hold_is_left_alone() {
    let hour = Hour::compacted_and_late().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    hour.die().await;
    let gate = Gate::at(".3.claim");
    let line = format!("--undo {unit}.2 --yes --json");
    let undo = compact_at(&hour.config, stopped(&hour.world, &gate), LATER_MS, &line);
    let finish = async { assert_eq!(summary(&compact(&hour.world, &hour.config, "").await)["compactions"], 1) };
    let ran = gate.meanwhile(undo, finish).await;
    assert!(ran.out.contains("was finished meanwhile") && !ran.out.contains("\"undone\":1"), "{}", ran.out);
    assert_eq!(ran.exit.expect_err("a person must look").exit, Exit::Stopped);
    assert_eq!(hour.rows().await.done().out, before);
    assert_eq!(summary(&compact(&hour.world, &hour.config, "").await)["stopped"], 0, "not held");
    for line in [format!("--undo {unit}.2.claim"), format!("--undo {unit}.2.claim --yes")] {
        let ran = hour.at(LATER_MS, &line).await;
        assert!(ran.out.contains("was finished meanwhile") && !ran.out.contains("\"undone\":1"), "{}", ran.out);
        assert_eq!(ran.exit.expect_err("it is no claim any more").exit, Exit::Stopped);
    }
    assert_clean(&hour.world, &hour.config, "finished").await;
}

/// Goal: nothing is made of the objects of a compaction while the mark that takes it back may still come.
#[tokio::test]
async fn a_mark_that_nobody_answers_for_leaves_the_unit_held() {
    let hour = Hour::compacted_and_late().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    let line = format!("--undo {unit}.1 --yes");
    let failure = hour.unanswered(".1.undone", &line).await;
    assert!(failure.message.contains(&format!("siltstone compact {line}")), "{failure}");
    let held = hour.held().await;
    assert!(held.contains(&format!("siltstone compact {line}")) && hour.made(3).await.is_none(), "{held}");
    let (bucket, partition) = (hour.bucket(), TopicPartition::new("t", 0));
    bucket.undo_compaction(&partition, &(unit.clone(), 1), LATER_MS).await.expect("it comes late");
    hour.undo(&line).await;
    hour.put_back(3).await;
    assert_eq!(hour.rows().await.done().out, before);
    assert_eq!(summary(&compact(&hour.world, &hour.config, "").await)["compactions"], 1);
    assert_eq!(hour.rows().await.done().out, before);
}

/// Goal: a hold that was left is ended without taking anything back, where nothing is taken back yet; where something is, it is finished. Method: one dies
/// behind its hold, or behind the first of two marks.
#[tokio::test]
async fn a_hold_that_was_left_is_given_up_by_its_number() {
    for (writes, is_begun) in [(0, false), (1, true)] {
        let hour = Hour::compacted_and_late().await;
        compact(&hour.world, &hour.config, "").await;
        let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
        let line = format!("--undo {unit}.1 --yes");
        assert!(compact_at(&hour.config, mortal(&hour.world, writes, true), LATER_MS, &line).await.exit.is_err());
        let (held, by_number) = (hour.held().await, format!("--undo {unit}.3"));
        let names = |line: &str| held.contains(&format!("siltstone compact {line}"));
        assert!(names(&line) && names(&format!("{by_number} --yes")), "{held}");
        let dry = hour.undo(&by_number).await;
        let told = hour.undo(&format!("{by_number} --yes")).await;
        for told in [dry, told] {
            let numbers: Vec<i64> = told.iter().filter_map(|step| step["n"].as_i64()).collect();
            assert_eq!(numbers, if is_begun { vec![2, 1] } else { vec![3] }, "{told:?}");
        }
        if is_begun {
            hour.put_back(3).await;
        }
        let done = summary(&compact(&hour.world, &hour.config, "").await);
        assert_eq!((&done["stopped"], &done["compactions"]), (&0.into(), &u64::from(is_begun).into()), "{done}");
        assert_eq!(hour.rows().await.done().out, before, "{is_begun}");
    }
}

/// Goal: a damaged mark takes a compaction back as any other, since the store says that it was put, and nothing rests for ever because of it.
#[tokio::test]
async fn a_damaged_mark_is_as_old_as_the_store_says() {
    let hour = Hour::compacted_and_late().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    hour.undo(&format!("--undo {unit}.1 --yes")).await;
    hour.put_back(3).await;
    let keys = hour.world.keys().await;
    let mark = keys.iter().find(|key| key.as_ref().ends_with(&format!("{unit}.1.undone"))).expect("a mark");
    hour.world.main.put(mark, "{".into()).await.expect("put");
    let put_ms = hour.world.main.head(mark).await.expect("there").last_modified.timestamp_millis();
    let new = hour.made(1).await.expect("it rests");
    let told = hour.at(put_ms, &format!("--undo {unit}.1 --yes")).await.done().json();
    assert_eq!((&told[0]["kept_until_ms"], &told[0]["kept"][0]), (&(put_ms + LOOK_MS).into(), &new.into()), "{told:?}");
    let done = hour.at(put_ms + LOOK_MS, "--before 2d").await.done();
    assert!(!done.out.contains("move it away"), "{}", done.out);
    assert!(hour.made(1).await.is_none());
    assert_eq!(hour.rows().await.done().out, before);
}

/// Goal: a compactor that meets a hold behind its own switch says whose it is, and goes on with what is not held. Method: another one dies behind his hold
/// for an earlier compaction while the compactor is about to put its receipt.
#[tokio::test]
async fn a_hold_that_comes_meanwhile_stops_its_unit_alone() {
    let hour = Hour::compacted_and_late().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    for first in [0, 10] {
        let records: Vec<OwnedRecord> = (first..first + 10).map(|offset| record(1, offset, BASE_MS + offset)).collect();
        hour.world.archived(&hour.config, (first, first + 10), &records).await;
    }
    let gate = Gate::at(".2.0");
    let compactor = compact_at(&hour.config, stopped(&hour.world, &gate), LATER_MS, "--before 2d --json");
    let ran = gate.meanwhile(compactor, hour.die_holding(&format!("{unit}.1"))).await;
    let advice = format!("siltstone compact --undo {unit}.1 --yes");
    assert!(ran.out.contains(&advice) && !ran.out.contains("by somebody else"), "{}", ran.out);
    let last = ran.json().pop().expect("a summary");
    assert_eq!((&last["stopped"], &last["compactions"]), (&1.into(), &1.into()), "Kafka partition 1: {}", ran.out);
    assert_eq!(ran.exit.expect_err("a person must look").exit, Exit::Stopped);
    hour.undo(&format!("--undo {unit}.3 --yes")).await;
    let done = summary(&compact(&hour.world, &hour.config, "").await);
    assert_eq!((&done["stopped"], &done["deleted"], &done["compactions"]), (&0.into(), &2.into(), &0.into()), "{done}");
    let rows = hour.rows().await.done().out;
    assert!(rows.lines().count() == before.lines().count() + 20, "{rows}");
    assert_clean(&hour.world, &hour.config, "released").await;
}

/// Goal: what a second process finished rests for as long as the first one may be stalled. Method: the first one is stopped right before it deletes.
#[tokio::test]
async fn what_a_second_one_finished_rests_for_the_first_one() {
    let hour = Hour::compacted_and_late().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    let gate = Gate::at("delete");
    let first = compact_at(&hour.config, stopped(&hour.world, &gate), LATER_MS, "--before 2d");
    let meanwhile = async {
        compact(&hour.world, &hour.config, "").await;
        let told = hour.undo(&format!("--undo {unit}.2 --yes")).await;
        assert_eq!(told[0]["kept_until_ms"], LATER_MS + DAY_MS, "{told:?}");
        hour.put_back(3).await;
        hour.at(RESTED_MS, &format!("--undo {unit}.2 --yes")).await.done();
        assert!(hour.made(2).await.is_some());
    };
    gate.meanwhile(first, meanwhile).await.done();
    assert!(hour.made(2).await.is_some(), "the only copy of the late one");
    hour.put_back(3).await;
    hour.at(LATER_MS + DAY_MS, "--before 2d").await.done();
    assert_eq!((hour.made(2).await, hour.rows().await.done().out), (None, before));
}

/// Goal: who does not know whether he holds a unit is told so, and to say it again is enough, where the hold comes late too.
#[tokio::test]
async fn a_hold_that_nobody_answers_for_is_told() {
    let hour = Hour::compacted_and_late().await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    let line = format!("--undo {unit}.1 --yes");
    let failure = hour.unanswered(".2.claim", &line).await.message;
    assert!(failure.contains("may be held now") && failure.contains(&format!("siltstone compact {line}")), "{failure}");
    hour.die_holding(&format!("{unit}.1")).await;
    hour.undo(&line).await;
    hour.put_back(3).await;
    assert_eq!(summary(&compact(&hour.world, &hour.config, "").await)["stopped"], 0);
    assert_eq!(hour.rows().await.done().out, before);
}

/// Goal: two that take the same back at once do no harm to each other, nor a compactor as soon as it may. Method: the one is stopped in the middle while
/// the other comes to its end.
#[tokio::test]
async fn two_may_take_the_same_back_at_once() {
    let hour = Hour::compacted_and_late().await;
    hour.compact_before("").await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    let line = format!("--undo {unit}.2 --yes");
    // The second is marked and the first is not. Whoever comes later has all of it marked when he releases both.
    let gate = Gate::at(".1.undone");
    let slow = compact_at(&hour.config, stopped(&hour.world, &gate), LATER_MS, &line);
    let other = async {
        hour.undo(&line).await;
        hour.put_back(3).await;
        assert_eq!(summary(&compact(&hour.world, &hour.config, "").await)["compactions"], 1);
        assert!(hour.made(5).await.is_some());
    };
    gate.meanwhile(slow, other).await.done();
    assert_eq!(hour.rows().await.done().out, before);
    let done = summary(&hour.at(RESTED_MS, "--before 2d").await.done());
    assert_eq!((&done["undone"], &done["stopped"]), (&1.into(), &0.into()));
    assert_eq!(data_keys(&hour.world).await, BTreeSet::from([hour.made(5).await.expect("it")]));
    assert_clean(&hour.world, &hour.config, "compacted again").await;
}

/// Goal: who comes to his end first does not release the unit while one that came later is in the middle.
#[tokio::test]
async fn whoever_came_first_leaves_the_hold_of_the_second() {
    let hour = Hour::compacted_and_late().await;
    compact(&hour.world, &hour.config, "").await;
    let (before, unit) = (hour.rows().await.done().out, hour.unit().await);
    let line = format!("--undo {unit}.2 --yes");
    let (of_first, of_second) = (Gate::at(".3.claim is put"), Gate::at(".1.undone"));
    let first = compact_at(&hour.config, stopped(&hour.world, &of_first), LATER_MS, &line);
    let second = compact_at(&hour.config, stopped(&hour.world, &of_second), LATER_MS, &line);
    let mut second = std::pin::pin!(second);
    of_first.meanwhile(first, of_second.stops(second.as_mut())).await.done();
    assert!(hour.held().await.contains("is being taken back"));
    of_second.open.notify_one();
    second.await.done();
    hour.put_back(3).await;
    assert_eq!(summary(&compact(&hour.world, &hour.config, "").await)["compactions"], 1);
    assert_eq!(hour.rows().await.done().out, before);
}
