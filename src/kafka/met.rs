//! What a reader meets besides records: the end of its partition, a position out of range, a batch that cannot be read.

use super::readers::{Phase, Readers};
use super::trouble::explain;
use crate::consume::SourceSink;
use rdkafka::types::RDKafkaErrorCode;

/// After a damaged batch or a refused fetch, before the same position is tried again.
const RETRY_MS: i64 = 5_000;

/// Something other than a record that a reader met.
pub(super) struct Met<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) code: RDKafkaErrorCode,
    pub(super) offset: i64,
    pub(super) text: &'a str,
}

impl Met<'_> {
    /// Tells `sink`, where it is news, and stops the reader, where it must not go on.
    pub(super) fn hand_over(&self, readers: &mut Readers, now_ms: i64, sink: &mut dyn SourceSink) {
        match self.code {
            RDKafkaErrorCode::PartitionEOF => {
                if let Some(partition) = readers.end(self.topic, self.partition, self.offset) {
                    sink.end_of_partition(partition, self.offset);
                }
            }
            // librdkafka has stopped this reader. No news if it was placed anew since: it would meet the same again.
            RDKafkaErrorCode::AutoOffsetReset => {
                if let Some(reader) = readers.get(self.topic, self.partition)
                    && reader.phase == Phase::Running
                    && !(0..reader.next).contains(&self.offset)
                {
                    reader.phase = Phase::Stalled;
                    sink.out_of_range(&reader.partition, None);
                }
            }
            // librdkafka goes on behind a batch that it cannot read. That would be a silent loss: stay before it.
            code => {
                if let Some(reader) = readers.get(self.topic, self.partition)
                    && reader.phase == Phase::Running
                {
                    reader.phase = Phase::Displaced { at_ms: now_ms + RETRY_MS };
                }
                sink.trouble(format!("{}/{}: {}", self.topic, self.partition, explain(code, self.text)));
            }
        }
    }
}
