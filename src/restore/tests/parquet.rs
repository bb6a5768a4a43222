//! Goal: what is restored of JSON lines that became Parquet is what would have been restored of the lines.

use super::*;
use crate::bucket::compactions::To;
use crate::compact::{Compactor, Options, Step, Summary};
use serde_json::Value;
use std::collections::BTreeSet;

const DAY_MS: i64 = 24 * HOUR_MS;

impl World {
    pub(super) async fn compacted(&self) -> Summary {
        let clock = Arc::new(ManualClock::at(BASE_MS + 7 * DAY_MS));
        let mut options = Options::before(BASE_MS + 5 * DAY_MS);
        (options.to, options.nulls_as_missing) = (Some(To::Parquet), true);
        let mut compactor = Compactor::new(&self.config, self.destinations(), clock, options).expect("ready");
        let mut tell = |step: Step| match step {
            Step::Left { why, .. } => panic!("{why}"),
            _ => Ok(()),
        };
        compactor.run(&mut tell).await.expect("compacted");
        compactor.summary.clone()
    }

    /// What is restored, with values as JSON where they are any, and what is said to be lost.
    async fn told(&self) -> (Vec<(OwnedRecord, Option<Value>)>, BTreeSet<String>) {
        let target = Fake::new([]);
        let (ended, _, survey) = self.restored(&target, &Asked::default()).await;
        assert_eq!(ended.expect("ended"), Ended::Done);
        let parsed = |mut record: OwnedRecord| {
            let value = record.value.take();
            let value = value.map(|value| {
                serde_json::from_slice(&value).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&value)))
            });
            (record, value)
        };
        (target.of_partition(0).into_iter().map(parsed).collect(), survey.losses)
    }
}

/// Records with all that Kafka's own columns can hold, and payloads of every kind.
fn records() -> Vec<OwnedRecord> {
    let payloads = [
        Some(r#"{"id":1,"Id":2,"text":"\u00e4\n","deep":{"a":[1.5,2.50]}}"#.to_string()),
        None,
        Some("[1,{\"a\":2}]".to_string()),
        Some(r#""text""#.to_string()),
        Some("{}".to_string()),
        Some(format!(r#"{{"id":3,"{}":4,"_rest":{{"id":5}}}}"#, "long".repeat(100))),
        None,
        Some("17".to_string()),
    ];
    let of = |(at, payload): (usize, Option<String>)| {
        let offset = i64::try_from(at).expect("few");
        OwnedRecord { value: payload.map(String::into_bytes), ..record(0, offset, 0) }
    };
    payloads.into_iter().enumerate().map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn parquet_of_json_lines_restores_what_the_lines_restore() {
    for keep in [
        "keep = [\"key\", \"headers\", \"timestamp\", \"topic\", \"partition\", \"offset\"]\n",
        "keep = [\"key\"]\n",
        "keep = [\"headers\", \"offset\"]\n",
        "",
    ] {
        let archive = format!("tombstones = \"keep\"\n[[archive.output]]\nformat = \"json\"\n{keep}");
        let world = World::new(&archive);
        let is_object = |record: &OwnedRecord| record.value.as_deref().is_some_and(|value| value.starts_with(b"{"));
        // Without such columns a line that is no object stays JSON.
        let all: Vec<_> = records().into_iter().filter(|record| !keep.is_empty() || is_object(record)).collect();
        world.archived(&all, 100).await;
        let (records, said) = world.told().await;
        let summary = world.compacted().await;
        assert_eq!((summary.compactions, summary.left, summary.rows), (1, 0, all.len() as u64), "{keep}: {summary:?}");
        let (now, now_said) = world.told().await;
        assert_eq!(now, records, "{keep}");
        let are_tombstones = |(record, (_, value)): (&OwnedRecord, &(OwnedRecord, Option<Value>))| {
            assert_eq!(record.value.is_none(), value.is_none(), "{keep} {}", record.offset);
        };
        all.iter().zip(&now).for_each(are_tombstones);
        // That values are columns is all that is new.
        let others =
            |of: &BTreeSet<String>| of.iter().filter(|what| !what.starts_with("values:")).cloned().collect::<Vec<_>>();
        assert_eq!(others(&now_said), others(&said), "{keep}");
        assert!(now_said.iter().any(|what| what.contains("made of columns")), "{now_said:?}");
    }
}
