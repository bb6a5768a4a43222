//! Compactions made up, for tests of what asks which objects count.

use crate::bucket::Bucket;
use crate::bucket::compactions::{
    COMPACTION_VERSION, Compaction, CompactionReceipt, Group, Input, Proof, ProofBy, UNIT_DIGITS,
};

/// Where its objects lie.
pub(crate) const AT: &str = "memory:///";

/// The compaction `n` of a unit of partition 0 of `t`, which makes `key` of `inputs`: the key of each, and its batch.
pub(crate) fn compaction(unit: char, n: u32, inputs: &[(&str, i64, i64)], key: &str) -> Compaction {
    let input = |&(key, first, end): &(&str, i64, i64)| Input {
        key: key.into(),
        first,
        end,
        rows: 1,
        bytes: 1,
        sha256: String::new(),
    };
    let group = Group {
        destinations: vec![AT.into()],
        fingerprint: "f".into(),
        schema: None,
        target: None,
        to: None,
        inputs: inputs.iter().map(input).collect(),
        batches: inputs.iter().map(|&(_, first, end)| (first, end)).collect(),
        key: key.into(),
        records: None,
        rows: 2,
        bytes: 2,
        sha256: String::new(),
        event_min_ms: None,
        event_max_ms: None,
        proof: Proof { by: ProofBy::Bytes, rows: 2, inputs: String::new(), object: String::new() },
    };
    Compaction {
        version: COMPACTION_VERSION,
        topic: "t".into(),
        partition: 0,
        generation: 1,
        archive: "a".into(),
        output: "json".into(),
        folder: "x".into(),
        unit: unit.to_string().repeat(UNIT_DIGITS),
        n,
        groups: vec![group],
        hold: None,
    }
}

/// Writes the receipt of that compaction: from now on it counts.
pub(crate) async fn finish(bucket: &Bucket, of: &Compaction) {
    let receipt =
        CompactionReceipt { compaction: of.clone(), writer: String::new(), written_ms: None, given_up: false };
    assert!(bucket.put_compaction_receipt(&receipt).await.expect("written"));
}
