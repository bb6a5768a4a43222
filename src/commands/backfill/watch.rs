//! How far the job is, for whoever watches.

use super::told::{Said, say};
use crate::bucket::jobs::Job;
use crate::consume::Coordinator;
use crate::exit::Failure;
use crate::record::TopicPartition;
use crate::telemetry::progress::Progress;
use crate::telemetry::status::Status;
use std::io::Write;

/// How often a line is written where there is no terminal.
const LINES_MS: i64 = 10_000;

/// Shows how far the whole job is: what its group has committed, and what this process has read beyond.
pub(super) struct Watch<'a> {
    job: &'a Job,
    coordinator: &'a dyn Coordinator,
    status: &'a Status,
    bars: Option<Bars>,
    json: bool,
    partitions: Vec<TopicPartition>,
    offsets: u64,
    began: Option<(i64, u64)>,
    next_line_ms: Option<i64>,
}

struct Bars {
    progress: Progress,
    bars: Vec<indicatif::ProgressBar>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        job: &'a Job,
        coordinator: &'a dyn Coordinator,
        status: &'a Status,
        progress: Option<Progress>,
        json: bool,
    ) -> Self {
        let mut partitions: Vec<TopicPartition> =
            job.ranges.iter().map(|range| TopicPartition::new(job.topic.as_str(), range.partition)).collect();
        partitions.dedup();
        let length = |partition: &TopicPartition| done(job, partition.partition, i64::MAX);
        let bars = progress.map(|progress| {
            let bar = |partition: &TopicPartition| progress.bar(&partition.to_string(), length(partition));
            Bars { bars: partitions.iter().map(bar).collect(), progress }
        });
        let offsets = partitions.iter().map(length).sum();
        Self { job, coordinator, status, bars, json, partitions, offsets, began: None, next_line_ms: None }
    }

    pub(super) async fn look(&mut self, now_ms: i64, out: &mut dyn Write) -> Result<(), Failure> {
        // Not to know it is no reason to stop: the next look asks again.
        let Ok(committed) = self.coordinator.committed(self.partitions.clone()).await else { return Ok(()) };
        let read = self.status.positions();
        let mut all = 0;
        for (index, partition) in self.partitions.iter().enumerate() {
            let committed = committed.iter().find_map(|(of, committed)| committed.as_ref().filter(|_| of == partition));
            let position = committed.map(|committed| committed.offset).max(read.get(partition).copied()).unwrap_or(0);
            let done = done(self.job, partition.partition, position);
            all += done;
            if let Some(bars) = &self.bars {
                bars.bars[index].set_position(done);
            }
        }
        let (began_ms, before) = *self.began.get_or_insert((now_ms, all));
        let next_line_ms = *self.next_line_ms.get_or_insert(now_ms + LINES_MS);
        if self.bars.is_some() || now_ms < next_line_ms {
            return Ok(());
        }
        self.next_line_ms = Some(now_ms + LINES_MS);
        let (offsets, seconds) = (self.offsets, (now_ms - began_ms).max(1) as f64 / 1000.0);
        let rate = (all - before.min(all)) as f64 / seconds;
        let eta_s = (rate > 0.0).then(|| ((offsets - all.min(offsets)) as f64 / rate).round() as u64);
        let said =
            Said::Progress { job: &self.job.name, offsets, done: all, offsets_per_s: rate.round() as u64, eta_s };
        say(out, self.json, &said, || {
            let eta = eta_s.map_or(String::new(), |eta_s| format!(", {eta_s} s left"));
            format!("{all} of {offsets} offsets, {rate:.0} offsets/s{eta}")
        })?;
        Ok(())
    }

    pub(super) fn end(self) {
        if let Some(Bars { progress, bars }) = self.bars {
            bars.iter().for_each(|bar| bar.finish_and_clear());
            drop(progress);
        }
    }
}

/// Offsets of the job in a Kafka partition that lie below `position`.
fn done(job: &Job, partition: i32, position: i64) -> u64 {
    let of = job.ranges.iter().filter(|range| range.partition == partition);
    of.map(|range| (position.clamp(range.first, range.end) - range.first).unsigned_abs()).sum()
}
