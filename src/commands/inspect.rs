//! `siltstone inspect`: where every Kafka partition stands, as group and bucket tell it. Reads only.

use crate::batch::metadata::{OffsetMetadata, OffsetState};
use crate::bucket::Bucket;
use crate::cli::InspectArgs;
use crate::clock::SystemClock;
use crate::commands::run::{Connected, connect};
use crate::config::Config;
use crate::consume::{Committed, Coordinator, LogBounds};
use crate::exit::{Exit, Failure};
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::{StartError, chain, first_bounds, open_destinations};
use crate::record::TopicPartition;
use serde::Serialize;
use std::io::Write;

/// What is known of one Kafka partition.
#[derive(Debug, Serialize)]
struct Line {
    topic: String,
    partition: i32,
    archive: String,
    log_start: i64,
    log_end: i64,
    committed: Option<i64>,
    lag: i64,
    state: String,
    planned_end: Option<i64>,
    layout: Option<String>,
    watermark: Option<String>,
    last_receipt: Option<LastReceipt>,
}

#[derive(Debug, Serialize)]
struct LastReceipt {
    first: i64,
    end: i64,
    rows: u64,
    objects: usize,
}

/// Writes one line (or JSON object) for each Kafka partition of every archive to `out`.
///
/// # Errors
/// Kafka or a store does not answer or refuses.
pub async fn inspect(args: &InspectArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let destinations = open_destinations(config)?;
    let Connected { coordinator, topics, .. } = connect(config).await?;
    let wrote = |error: std::io::Error| Failure::new(Exit::Failed, format!("write to the terminal: {error}"));
    if !args.json {
        writeln!(
            out,
            "{:<40} {:>12} {:>12} {:>12} {:>10}  {:<28} {:<24} last receipt",
            "Kafka partition", "log start", "log end", "committed", "lag", "state", "watermark"
        )
        .map_err(wrote)?;
    }
    let clock = SystemClock::new();
    for (topic, count) in topics {
        let Some(archive) = config.archives.iter().find(|archive| archive.topics.matches(&topic)) else { continue };
        let home = &archive.layout.outputs[0].place.destinations[0];
        let Some(destination) = destinations.get(home) else { continue };
        let bucket = Bucket::new(destination.clone());
        let partitions: Vec<_> = (0..count).map(|number| TopicPartition::new(topic.as_str(), number)).collect();
        let unreachable = |reason| Failure::new(Exit::Unreachable, format!("{topic}: {reason}"));
        let committed = coordinator.committed(partitions).await.map_err(unreachable)?;
        for (partition, committed) in committed {
            let bounds = first_bounds(&clock, &*coordinator, &partition).await?;
            let line = describe(&bucket, &archive.name, partition, committed, bounds).await?;
            if args.json {
                let json =
                    serde_json::to_string(&line).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
                writeln!(out, "{json}").map_err(wrote)?;
            } else {
                writeln!(out, "{}", row(&line)).map_err(wrote)?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn describe(
    bucket: &Bucket,
    archive: &str,
    partition: TopicPartition,
    committed: Option<Committed>,
    bounds: LogBounds,
) -> Result<Line, Failure> {
    let metadata = committed.as_ref().and_then(|committed| OffsetMetadata::decode(&committed.metadata));
    let (state, planned_end, layout) = match metadata.as_ref().map(|metadata| &metadata.state) {
        None if committed.is_none() => ("never archived".to_string(), None, None),
        None => ("committed by another tool".to_string(), None, None),
        Some(OffsetState::Start) => ("started".to_string(), None, None),
        Some(OffsetState::Done) => ("archived".to_string(), None, None),
        Some(OffsetState::Plan { end, fingerprint, .. }) => {
            (format!("batch planned to {end}"), Some(*end), Some(fingerprint.clone()))
        }
    };
    let store = |error: crate::bucket::BucketError| {
        Failure::new(error.exit().unwrap_or(Exit::Unreachable), format!("{partition}: {}", chain(&error)))
    };
    let last = match metadata.as_ref().and_then(|metadata| metadata.previous_first) {
        Some(first) => bucket.entry_at(&partition, first).await.map_err(store)?,
        None => bucket.highest(&partition).await.map_err(store)?,
    };
    let last_receipt = last.and_then(|entry| entry.receipt).map(|receipt| LastReceipt {
        first: receipt.first,
        end: receipt.end,
        rows: receipt.objects.iter().filter_map(|object| object.rows).sum(),
        objects: receipt.objects.len(),
    });
    let committed = committed.map(|committed| committed.offset);
    Ok(Line {
        topic: partition.topic.to_string(),
        partition: partition.partition,
        archive: archive.to_string(),
        log_start: bounds.start,
        log_end: bounds.end,
        committed,
        lag: bounds.readable_end - committed.unwrap_or(bounds.start).min(bounds.readable_end),
        state,
        planned_end,
        layout,
        watermark: metadata.and_then(|metadata| metadata.watermark_ms).map(render_instant),
        last_receipt,
    })
}

fn row(line: &Line) -> String {
    let none = || "-".to_string();
    let receipt = line.last_receipt.as_ref().map_or_else(none, |receipt| {
        format!("[{}, {}) {} rows in {} objects", receipt.first, receipt.end, receipt.rows, receipt.objects)
    });
    format!(
        "{:<40} {:>12} {:>12} {:>12} {:>10}  {:<28} {:<24} {receipt}",
        format!("{}/{}", line.topic, line.partition),
        line.log_start,
        line.log_end,
        line.committed.map_or_else(none, |offset| offset.to_string()),
        line.lag,
        line.state,
        line.watermark.clone().unwrap_or_else(none),
    )
}
