//! The parts of an archiver's work, each alone, in a process of its own: what `run` is held against by `scripts/bench.sh`.
//!
//! ```text
//! parts consume BROKERS TOPIC    read every record of the topic and drop it
//! parts read FOLDER KIND         read each *.KIND file of the folder: what the others do besides their work
//! parts gzip FOLDER LEVEL        compress each *.jsonl file of the folder as one stream, into nothing
//! parts parquet FOLDER MIB       decode each *.jsonl file and encode it as Parquet with row groups of that size, into nothing
//! parts decode KIND FOLDER MIB   the same of LTSV, Avro and Protocol Buffers: KIND is ltsv, avro or pb
//! parts transform FOLDER FILE LEVEL   run each line of each *.jsonl file through a program in VRL and compress it, into nothing
//! ```
//! Nothing here is the archiver's code, and each part is done in the cheapest way known, because a slow reference would
//! flatter the archiver. Each prints what it did, so that the caller can see that it was all of the work.
#![allow(unsafe_code)] // the batch interface of librdkafka, cheapest of all, has no safe wrapper
#![allow(clippy::print_stdout, missing_docs)]

mod decoders;

use anyhow::{Context, bail};
use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, Write, sink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Messages taken at once from librdkafka.
const BATCH: usize = 10_000;

/// Bytes handed to an encoder at once.
const CHUNK: usize = 64 * 1024;

/// Records that the Parquet schema is inferred from, as the archiver does.
const INFER_RECORDS: usize = 10_000;

/// Rows of one arrow batch.
const ARROW_ROWS: usize = 8192;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["consume", brokers, topic] => consume(brokers, topic),
        ["read", folder, kind] => read(Path::new(folder), kind),
        ["gzip", folder, level] => gzip(Path::new(folder), level.parse()?),
        ["parquet", folder, mib] => parquet(Path::new(folder), mib.parse::<usize>()? << 20),
        ["decode", kind, folder, mib] => decoders::parquet(kind, Path::new(folder), mib.parse::<usize>()? << 20),
        ["transform", folder, program, level] => {
            decoders::transform(Path::new(folder), Path::new(program), level.parse()?)
        }
        // `cargo bench` and `cargo test` start it with arguments of their own: nothing to measure then.
        _ => {
            println!(
                "usage: parts consume BROKERS TOPIC | read FOLDER KIND | gzip FOLDER LEVEL | parquet FOLDER MIB | decode KIND FOLDER MIB | \
                 transform FOLDER FILE LEVEL; see scripts/bench.sh"
            );
            Ok(())
        }
    }
}

fn consume(brokers: &str, topic: &str) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "siltstone-bench")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    let timeout = Duration::from_secs(30);
    let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
    let partitions = metadata.topics().first().context("the broker does not know the topic")?.partitions();
    let mut left = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        let (first, end) = consumer.fetch_watermarks(topic, partition.id(), timeout)?;
        if first < end {
            left.insert(partition.id(), end);
            assignment.add_partition_offset(topic, partition.id(), Offset::Offset(first))?;
        }
    }
    let queue = BatchQueue::new(&consumer, topic, left.keys().copied())?;
    consumer.assign(&assignment)?;
    let (mut records, mut bytes) = (0_u64, 0_u64);
    while !left.is_empty() {
        queue.take(|message| {
            if message.err != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                bail!("consuming failed: {:?}", message.err);
            }
            records += 1;
            bytes += message.len as u64;
            if left.get(&message.partition).is_some_and(|end| message.offset + 1 >= *end) {
                left.remove(&message.partition);
            }
            Ok(())
        })?;
    }
    println!("records={records} bytes={bytes}");
    Ok(())
}

/// All Kafka partitions of a topic, forwarded to one queue that is read in batches.
struct BatchQueue<'a> {
    queue: *mut rd::rd_kafka_queue_t,
    /// The client must outlive the queue.
    _consumer: &'a BaseConsumer,
}

impl<'a> BatchQueue<'a> {
    /// To be called before the partitions are assigned: then no message takes the way through the consumer's own queue.
    fn new(consumer: &'a BaseConsumer, topic: &str, partitions: impl Iterator<Item = i32>) -> anyhow::Result<Self> {
        let client = consumer.client().native_ptr();
        let topic = CString::new(topic)?;
        // SAFETY: the client is alive, as `consumer` is borrowed; librdkafka owns what it gives out until the matching
        // destroy, and a forwarded queue holds a reference of its own to the queue it is forwarded to.
        unsafe {
            let queue = rd::rd_kafka_queue_new(client);
            for partition in partitions {
                let of_partition = rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
                if of_partition.is_null() {
                    bail!("no queue of partition {partition}");
                }
                rd::rd_kafka_queue_forward(of_partition, queue);
                rd::rd_kafka_queue_destroy(of_partition);
            }
            Ok(Self { queue, _consumer: consumer })
        }
    }

    /// Hands the messages of one batch to `each`, possibly none.
    fn take(&self, mut each: impl FnMut(&rd::rd_kafka_message_t) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut messages = [std::ptr::null_mut(); BATCH];
        // SAFETY: `messages` has room for BATCH pointers; the first `count` are valid afterwards and ours to destroy, once.
        unsafe {
            let count = rd::rd_kafka_consume_batch_queue(self.queue, 100, messages.as_mut_ptr(), BATCH);
            let count = usize::try_from(count).context("reading the batch queue failed")?;
            let mut result = Ok(());
            for message in messages.iter().take(count) {
                if result.is_ok() {
                    result = each(&**message);
                }
                rd::rd_kafka_message_destroy(*message);
            }
            result
        }
    }
}

impl Drop for BatchQueue<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed nowhere else, and the client is still alive.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) };
    }
}

fn read(folder: &Path, kind: &str) -> anyhow::Result<()> {
    let mut bytes = 0_u64;
    let mut chunk = vec![0; CHUNK];
    for path in inputs(folder, kind)? {
        let mut file = File::open(&path)?;
        while let Some(read) = next(&mut file, &mut chunk)? {
            bytes += read.len() as u64;
        }
    }
    println!("bytes={bytes}");
    Ok(())
}

fn gzip(folder: &Path, level: u32) -> anyhow::Result<()> {
    let (mut bytes, mut packed) = (0_u64, 0_u64);
    let mut chunk = vec![0; CHUNK];
    for path in inputs(folder, "jsonl")? {
        let mut file = File::open(&path)?;
        let mut encoder = GzEncoder::new(Counted { bytes: 0 }, flate2::Compression::new(level));
        while let Some(read) = next(&mut file, &mut chunk)? {
            encoder.write_all(read)?;
            bytes += read.len() as u64;
        }
        packed += encoder.finish()?.bytes;
    }
    println!("bytes={bytes} packed={packed}");
    Ok(())
}

fn parquet(folder: &Path, row_group_bytes: usize) -> anyhow::Result<()> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
    let (mut records, mut packed) = (0_usize, 0_u64);
    let mut chunk = vec![0; CHUNK];
    let mut schema = None;
    for path in inputs(folder, "jsonl")? {
        let mut file = File::open(&path)?;
        if schema.is_none() {
            let (inferred, _) = infer_json_schema(BufReader::new(&mut file), Some(INFER_RECORDS))?;
            file.rewind()?;
            schema = Some(Arc::new(inferred));
        }
        let schema = schema.clone().context("inferred above")?;
        let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(ARROW_ROWS).build_decoder()?;
        let mut writer = ArrowWriter::try_new(Counted { bytes: 0 }, schema, Some(properties.clone()))?;
        let mut in_row_group = 0;
        while let Some(mut unread) = next(&mut file, &mut chunk)? {
            in_row_group += unread.len();
            while !unread.is_empty() {
                let taken = decoder.decode(unread)?;
                unread = &unread[taken..];
                // The decoder leaves something only where its batch is full, and always at the end of a row.
                if !unread.is_empty() {
                    records += write_batch(&mut decoder, &mut writer)?;
                }
            }
            if in_row_group >= row_group_bytes {
                writer.flush()?;
                in_row_group = 0;
            }
        }
        records += write_batch(&mut decoder, &mut writer)?;
        packed += writer.into_inner()?.bytes;
    }
    println!("records={records} packed={packed}");
    Ok(())
}

fn write_batch<W: Write + Send>(
    decoder: &mut arrow_json::reader::Decoder,
    writer: &mut ArrowWriter<W>,
) -> anyhow::Result<usize> {
    match decoder.flush()? {
        Some(batch) => {
            writer.write(&batch)?;
            Ok(batch.num_rows())
        }
        None => Ok(0),
    }
}

/// The next bytes of `file`; `None` at its end.
fn next<'a>(file: &mut File, chunk: &'a mut [u8]) -> anyhow::Result<Option<&'a [u8]>> {
    let read = file.read(chunk)?;
    Ok((read > 0).then(|| &chunk[..read]))
}

fn inputs(folder: &Path, kind: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == kind));
    paths.sort();
    if paths.is_empty() {
        bail!("no *.{kind} in {}", folder.display());
    }
    Ok(paths)
}

/// Takes bytes and counts them.
struct Counted {
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes += bytes.len() as u64;
        sink().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
