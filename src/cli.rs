//! The command line: what was typed, nothing of what it means.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Archives Kafka topics to object stores as hourly gzip and Parquet objects, exactly once.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "siltstone",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "New here? `siltstone demo` needs no Kafka, no bucket and no configuration. \
                  `siltstone help` lists the pages of the guide."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Archive until told to stop.
    ///
    /// Reads the topics of the configuration as a member of its consumer group and puts every record into the bucket
    /// exactly once. SIGTERM seals, uploads and commits what is open, within shutdown.timeout; a second signal leaves
    /// at once and loses nothing.
    Run(RunArgs),
    /// Check a configuration without archiving anything.
    ///
    /// Prints every problem of the file at once, each with its line and what is allowed. Opens no connection unless
    /// --connect is given.
    Check(CheckArgs),
    /// Show real records before and after: the rows they become, the objects they would land in, and why one is a dead letter.
    ///
    /// Reads the newest records of the topics, or a file of samples and then no Kafka at all. Joins no group, commits and
    /// archives nothing. With --json, an object a record: for tests of a configuration and its transforms.
    Preview(PreviewArgs),
    /// Show where each Kafka partition stands: committed offset, plan, watermark, lag, last receipt.
    ///
    /// Only reads: it never joins the group, commits or writes.
    Inspect(InspectArgs),
    /// Archive any range of offsets or times, or what `verify` finds missing, beside the live group: `siltstone help backfill`.
    ///
    /// The same pipeline, layout and guarantees as `run`, under a group of its own. What receipts vouch for is skipped. The range is fixed at
    /// the start and kept in the bucket as a job, so processes can be added, killed and started again: each command line with the same
    /// arguments goes on with the same job. A range must lie below what the live group has committed. With --missing damaged batches are archived
    /// again as they were cut; with --into the range is archived again at another destination.
    Backfill(BackfillArgs),
    /// Produce records of the archive back to Kafka, exactly once: `siltstone help restore`.
    ///
    /// From outputs of type envelope records come back as they were: key, value, headers, timestamp, tombstones. From others as far as they hold
    /// it; what is lost is said before the first record. Refused where the topic's settings would change, delete or refuse old timestamps. The same
    /// command goes on where it was left.
    Restore(RestoreArgs),
    /// Make large objects of the small ones of windows that are over: `siltstone help compact`.
    ///
    /// That no row is another is proven and recorded before the old objects are deleted. All commands follow the switch; wherever this is
    /// killed, running it again finishes what it began.
    Compact(CompactArgs),
    /// Prove that the archive is complete, or say what is wrong: `siltstone help verify`.
    ///
    /// Compares receipts with each other and with a listing of the bucket: gaps, overlaps, missing, doubled and unknown objects, sizes.
    /// Only reads. Exit code 0: complete; 8: something is wrong.
    Verify(VerifyArgs),
    /// Put old receipts together, a thousand in one document, so that an archive of years stays cheap to list: `siltstone help layout`.
    ///
    /// `run` does so by itself; this is for archives that no process runs on. Works with the bucket alone. Can be killed anywhere, run
    /// beside `run` and by several processes: whoever comes next finishes what was left.
    Fold(FoldArgs),
    /// Say which folders are complete, which wait, and for which Kafka partitions: `siltstone help complete`.
    ///
    /// Asks Kafka and the bucket, and writes nothing. For archives with a section [archive.complete].
    Status(StatusArgs),
    /// List the objects of an archive, by topic, time and Kafka partition: `siltstone help read`.
    ///
    /// From the receipts in the bucket: no folder of objects is listed and no object read.
    Ls(LsArgs),
    /// Print the records of any time range or offsets, from objects of any format: `siltstone help read`.
    ///
    /// Reads only the objects that can hold them, and writes to a pipe what they hold: JSON lines byte for byte, the columns of Avro and
    /// Parquet as JSON, raw payloads, whole records.
    Cat(CatArgs),
    /// Say where an offset is: in which objects, among the dead letters, or nowhere and why: `siltstone help read`.
    ///
    /// Exits with 1 where it is nowhere.
    Find(FindArgs),
    /// Print the statements that make tables of outputs in Hive, Athena, BigQuery, Spark, DuckDB or ClickHouse: `siltstone help tables`.
    ///
    /// For the layout and the schema of the configuration. Asks nobody, unless a schema was inferred (it is read from the bucket) or is in
    /// the registry.
    Ddl(DdlArgs),
    /// List and show dead letters, and write those that decode now: `siltstone help dead-letters`.
    ///
    /// Works with the bucket alone: Kafka is not asked.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// See the whole pipeline work, without a server or a configuration.
    ///
    /// Starts a Kafka cluster inside the process, produces access logs of several hours, archives them into a local
    /// folder with the very pipeline that `run` uses, and counts them again from the objects.
    Demo(DemoArgs),
    /// Show a page of the guide.
    Help(HelpArgs),
}

/// Which configuration.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file (TOML); config/full.toml documents every key.
    #[arg(short = 'c', long = "config", value_name = "FILE", env = "SILTSTONE_CONFIG")]
    pub config: PathBuf,
}

/// How to log.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// Form of the log on standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Least level that is logged: error, warn, info, debug, trace; or a filter such as `info,siltstone::upload=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Archive up to the ends of the partitions as they are now, commit, and exit.
    #[arg(long)]
    pub drain: bool,
    /// Go on where the receipts in the bucket end, for partitions whose committed offset is gone or was reset.
    #[arg(long)]
    pub resume_from_receipts: bool,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also prove that brokers, topics and destinations can be reached: puts, reads and deletes a small object in each
    /// destination, and shows which archive gets which topic.
    #[arg(long)]
    pub connect: bool,
    /// Also print the effective configuration, with every default; secrets as ***.
    #[arg(short, long)]
    pub verbose: bool,
}

/// `preview`.
#[derive(Clone, Debug, Args)]
pub struct PreviewArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// At most so many records of each topic.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Only this topic. With a file: the topic that records are of which name none.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Samples instead of Kafka: a file with a payload on each line, or - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "records")]
    pub lines: Option<PathBuf>,
    /// Samples instead of Kafka: a file with a JSON object on each line, or - for standard input. Its fields, all optional:
    /// value or value_base64, key or key_base64, headers ([[name, base64 or null], …]), timestamp (milliseconds), topic,
    /// partition, offset. Dead letters have this form.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// A JSON object a line and record instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// A JSON object a line and partition instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only this archive.
    #[arg(long, value_name = "NAME")]
    pub archive: Option<String>,
    /// Only this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only this Kafka partition. May be repeated, or name several: 0,3,7.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Vec<i32>,
    /// Only batches with objects that have event times from this time on, as in 2025-11-21T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub since: Option<i64>,
    /// Only batches with objects that have event times before this time.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub until: Option<i64>,
    /// Also read every object back: its checksum, and its rows counted.
    #[arg(long)]
    pub deep: bool,
    /// Also ask Kafka: what the group has committed, where logs begin and end, how many records there are in each batch.
    #[arg(long)]
    pub against_kafka: bool,
    /// A JSON object a line: one for each finding and note, the last one the summary.
    #[arg(long)]
    pub json: bool,
}

/// `fold`.
#[derive(Clone, Debug, Args)]
pub struct FoldArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only this archive.
    #[arg(long, value_name = "NAME")]
    pub archive: Option<String>,
    /// Only this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only receipts that are older: 90s, 15m, 24h, 3d. The newest thousand of each Kafka partition stay in any case.
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = age)]
    pub min_age: i64,
    /// Write nothing, only say what would be folded.
    #[arg(long)]
    pub dry_run: bool,
    /// A JSON object a line and Kafka partition instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only this archive.
    #[arg(long, value_name = "NAME")]
    pub archive: Option<String>,
    /// Only this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// A JSON object a line: the topic, what was completed last, what is open.
    #[arg(long)]
    pub json: bool,
}

/// Which part of an archive.
#[derive(Clone, Debug, Args)]
pub struct PartArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only of this archive.
    #[arg(long, value_name = "NAME")]
    pub archive: Option<String>,
    /// Only of these Kafka partitions: 0-3,7.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = partitions)]
    pub partition: Vec<RangeInclusive<i32>>,
    /// Only of this output.
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Only with an event time from this time on: 2025-11-21T08:00:00Z, 2025-11-21 (its begin in UTC), or 90s, 15m, 2h, 3d ago.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Moment>,
    /// Only with an event time before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Moment>,
    /// Only from this offset on.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub from_offset: Option<i64>,
    /// Only below this offset.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
}

/// A time, or how long ago it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Milliseconds UTC.
    At(i64),
    /// Milliseconds before now.
    Ago(i64),
}

impl Moment {
    /// Milliseconds UTC, where it is `now_ms`.
    pub fn at(self, now_ms: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(ms) => now_ms.saturating_sub(ms),
        }
    }
}

/// Milliseconds.
fn age(text: &str) -> Result<i64, String> {
    const UNITS: [(char, i64); 4] = [('s', 1_000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];
    UNITS
        .iter()
        .find_map(|&(unit, ms)| text.strip_suffix(unit)?.parse::<u32>().ok().map(|n| i64::from(n) * ms))
        .ok_or_else(|| "an age is needed, as 90s, 15m, 24h or 3d".to_string())
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(ago) = age(text) {
        return Ok(Moment::Ago(ago));
    }
    let day = || instant(&format!("{text}T00:00:00Z"));
    instant(text)
        .or_else(|_| day())
        .map(Moment::At)
        .map_err(|_| "a time is needed: 2025-11-21T08:00:00Z, a day as 2025-11-21, or 90s, 15m, 2h, 3d ago".to_string())
}

fn partitions(text: &str) -> Result<RangeInclusive<i32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => Ok(i32::from(first)..=i32::from(last)),
        _ => Err("a partition or several are needed, as 7 or 0-3".to_string()),
    }
}

/// Whose language a statement is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DdlDialect {
    /// Apache Hive.
    Hive,
    /// Amazon Athena, with partition projection.
    Athena,
    /// Google BigQuery, an external table.
    #[value(name = "bigquery")]
    BigQuery,
    /// Apache Spark SQL.
    Spark,
    /// DuckDB, a view.
    #[value(name = "duckdb")]
    DuckDb,
    /// ClickHouse.
    #[value(name = "clickhouse")]
    ClickHouse,
}

/// `ddl`.
#[derive(Clone, Debug, Args)]
pub struct DdlArgs {
    /// For which engine.
    #[arg(value_name = "ENGINE", value_enum)]
    pub dialect: DdlDialect,
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only of this archive.
    #[arg(long, value_name = "NAME")]
    pub archive: Option<String>,
    /// Only of this output.
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Only of this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// What the table is called; dots divide the parts of a longer name. Without it: the topic or archive, and the output where there are several.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub table: Option<String>,
    /// First day that Athena's partition projection covers, as 2025-11-21. By default 2020-01-01.
    #[arg(long, value_name = "DAY")]
    pub since: Option<chrono::NaiveDate>,
}

/// `ls`.
#[derive(Clone, Debug, Args)]
pub struct LsArgs {
    /// Which part of the archive.
    #[command(flatten)]
    pub part: PartArgs,
    /// Only of this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// A line for each folder instead of each object.
    #[arg(long, conflicts_with = "summary")]
    pub folders: bool,
    /// A line for each Kafka partition and output instead of each object.
    #[arg(long)]
    pub summary: bool,
    /// A JSON object a line instead of a table; the last one has the totals.
    #[arg(long)]
    pub json: bool,
}

/// In which order `cat` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CatOrder {
    /// By Kafka partition and offset, object by object.
    Offset,
    /// By event time, the objects of all partitions merged.
    Time,
}

/// `cat`.
#[derive(Clone, Debug, Args)]
pub struct CatArgs {
    /// Which part of the archive. Without --output: the first output of each archive.
    #[command(flatten)]
    pub part: PartArgs,
    /// The topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// The order; by default time, or offset where offsets are given.
    #[arg(long, value_name = "ORDER", value_enum)]
    pub order: Option<CatOrder>,
    /// Only lines in which this regular expression is found.
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Only rows that meet this condition, in the language of filters: .status >= 500. Of raw payloads and whole records: their JSON.
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
    /// At most so many.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Go on with what is archived from now on, until interrupted.
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Each row in a JSON object that also says which object and row it is, and its offset and event time where they are known.
    #[arg(long, conflicts_with = "raw")]
    pub json: bool,
    /// Payloads alone, of outputs that have them: the values of whole records, a line each.
    #[arg(long)]
    pub raw: bool,
}

/// `find`.
#[derive(Clone, Debug, Args)]
pub struct FindArgs {
    /// Which record: topic/partition/offset.
    #[arg(value_name = "RECORD", value_parser = record_id)]
    pub record: RecordId,
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// A JSON object a line instead of text.
    #[arg(long)]
    pub json: bool,
}

/// The name of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordId {
    /// Topic.
    pub topic: String,
    /// Kafka partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

fn record_id(text: &str) -> Result<RecordId, String> {
    let mut parts = text.split('/');
    if let (Some(topic), Some(partition), Some(offset), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        && let (Ok(partition), Ok(offset)) = (partition.parse::<u16>(), offset.parse::<i64>())
        && !topic.is_empty()
        && offset >= 0
    {
        return Ok(RecordId { topic: topic.to_string(), partition: partition.into(), offset });
    }
    Err("topic/partition/offset is needed, as in access/3/123456".to_string())
}

/// `dead-letters`.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List the objects of dead letters: Kafka partition, range, how many, how many were replayed.
    ///
    /// From the receipts in the bucket; the objects themselves are read only for --reasons and --stage.
    List(ListArgs),
    /// Print dead letters, or with --raw the payload of one.
    Show(ShowArgs),
    /// Decode dead letters again with the configuration as it is now, and write what makes rows to the outputs that lack it.
    ///
    /// Each dead letter is written once for each output, however often and by however many processes this is run, and wherever
    /// one is killed. What still is no row stays. Ends with a balance.
    Replay(ReplayArgs),
}

impl DeadLettersCommand {
    /// Which configuration.
    pub fn config(&self) -> &ConfigArgs {
        match self {
            Self::List(ListArgs { letters, .. })
            | Self::Show(ShowArgs { letters, .. })
            | Self::Replay(ReplayArgs { letters, .. }) => &letters.config,
        }
    }
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
pub struct LettersArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only of this archive.
    #[arg(long, value_name = "NAME")]
    pub archive: Option<String>,
    /// Only of this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only of this Kafka partition. May be repeated, or name several: 0,3,7.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Vec<i32>,
    /// Only of the record at this offset.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: Option<i64>,
    /// Only with a Kafka timestamp from this time on, as in 2025-11-21T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub since: Option<i64>,
    /// Only with a Kafka timestamp before this time.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub until: Option<i64>,
    /// Only of this stage. May be repeated, or name several: decode,row.
    #[arg(long, value_name = "STAGE", value_delimiter = ',', value_parser = STAGES)]
    pub stage: Vec<String>,
}

/// What dead letters fail at.
const STAGES: [&str; 5] = ["decode", "transform", "timestamp", "tombstone", "row"];

fn instant(text: &str) -> Result<i64, String> {
    let read = crate::parse::timestamp::rfc3339(text).map(|time| time.timestamp_millis());
    read.ok_or_else(|| "a time with its offset is needed, as in 2025-11-21T08:00:00Z".to_string())
}

/// `dead-letters list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Which dead letters.
    #[command(flatten)]
    pub letters: LettersArgs,
    /// Also read the objects, and say how many dead letters there are of each stage and reason.
    #[arg(long)]
    pub reasons: bool,
    /// A JSON object a line and object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `dead-letters show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Which dead letters.
    #[command(flatten)]
    pub letters: LettersArgs,
    /// At most so many dead letters.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// A JSON object a line and dead letter instead of text. `preview --records` reads them.
    #[arg(long, conflicts_with = "raw")]
    pub json: bool,
    /// The payload of the one record that is meant, byte for byte, and nothing else.
    #[arg(long)]
    pub raw: bool,
}

/// `dead-letters replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Which dead letters.
    #[command(flatten)]
    pub letters: LettersArgs,
    /// Write nothing, only say what would be written.
    #[arg(long)]
    pub dry_run: bool,
    /// Write at most so many dead letters.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// A JSON object a line: one for each step, the last one the balance.
    #[arg(long)]
    pub json: bool,
}

/// `backfill`.
#[derive(Clone, Debug, Args)]
pub struct BackfillArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// Only these Kafka partitions: 0-3,7. Without it: all.
    #[arg(long, value_name = "N", value_parser = partition_numbers)]
    pub partition: Option<Partitions>,
    /// From this offset on, in each partition. Without it: from the first one that Kafka has.
    #[arg(long, value_name = "OFFSET", conflicts_with_all = ["from_time", "to_time"], value_parser = clap::value_parser!(i64).range(0..))]
    pub from_offset: Option<i64>,
    /// Up to this offset, itself not, in each partition. Without it: up to where the live group is.
    #[arg(long, value_name = "OFFSET", conflicts_with_all = ["from_time", "to_time"], value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// From the first record with this Kafka timestamp or a later one, as in 2025-11-21T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub from_time: Option<i64>,
    /// Up to the last record whose Kafka timestamp is before this time. Reads the log behind the first later one, so that none that is out of
    /// order is left out.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub to_time: Option<i64>,
    /// What verifying the archive finds missing or damaged, instead of a range: gaps, and batches whose objects or receipts are gone. Those are
    /// archived again exactly as they were cut, and nothing else.
    #[arg(long, conflicts_with_all = ["from_offset", "to_offset", "from_time", "to_time", "into"])]
    pub missing: bool,
    /// With --missing: read all objects back, and also mend those whose bytes are damaged while their size is right.
    #[arg(long, requires = "missing")]
    pub deep: bool,
    /// Archive the range again at this destination, in the layout of this configuration: a URL, or the name of a section [destinations.NAME]. The
    /// archive's own destinations are neither read nor written. `siltstone help backfill` says how to read the new place.
    #[arg(long, value_name = "URL")]
    pub into: Option<String>,
    /// Name of the job. Without it: a name that follows from the other arguments, with --missing from what was found.
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// Offsets of a batch, about: batches end at multiples of it. Fixed when the job is made.
    #[arg(long, value_name = "N", default_value_t = crate::backfill::job::CHUNK, value_parser = clap::value_parser!(i64).range(crate::backfill::job::CHUNK_MIN..=1_000_000_000))]
    pub chunk: i64,
    /// Kafka partitions that this process archives at the same time. Without it: all that the group gives it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: Option<u32>,
    /// Make no job and archive nothing, only say what would be archived, and what about it would cost.
    #[arg(long)]
    pub dry_run: bool,
    /// Give the job up: what it has archived stays, what is left can be asked for by another job. Stop its processes first.
    #[arg(long, requires = "job", conflicts_with = "dry_run")]
    pub cancel: bool,
    /// JSON lines instead of text.
    #[arg(long)]
    pub json: bool,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `compact`.
#[derive(Clone, Debug, Args)]
pub struct CompactArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only windows that end by this time: 2025-11-21T08:00:00Z, 2025-11-21 (its begin in UTC), or 90s, 15m, 2h, 3d ago.
    #[arg(long, value_name = "TIME", value_parser = moment, required_unless_present = "undo")]
    pub before: Option<Moment>,
    /// Only of this archive.
    #[arg(long, value_name = "NAME")]
    pub archive: Option<String>,
    /// Only of this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only of these Kafka partitions: 0-3,7.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = partitions)]
    pub partition: Vec<RangeInclusive<i32>>,
    /// Only of this output.
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Also change the format: JSON lines become Parquet, with the columns that all rows of an object have together.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub to: Option<CompactTo>,
    /// With --to: a field that is null may come back as no field. Without this, objects with such a row stay as they are.
    #[arg(long, requires = "to")]
    pub nulls_as_missing: bool,
    /// Bytes that a new object aims at, as the old ones count them: a whole number with KiB, MiB or GiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    pub target_size: u64,
    /// Only windows that are over, and receipts that were written, for longer than this: a whole number with s, m, h or d. Less than a day is for
    /// archives whose uploads surely are over, such as that of a backfill.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = period_ms)]
    pub min_age: i64,
    /// Also look for objects that were replaced and deleted before and came back, as by an upload that had stalled, and delete them again.
    #[arg(long)]
    pub sweep: bool,
    /// Take back a compaction: this one, the newest of this unit, or the one that has made or replaced the object with this key, and what hangs together
    /// with it. The old objects count again and must be archived again from Kafka (siltstone backfill --missing), as they were deleted; no new one is
    /// deleted before, nor while another process may be deleting old ones: for ten minutes, or --min-age where a compaction was not at its end or is younger. One that
    /// was begun and not finished is given up, alone. Only says so, and the UNIT.N that is meant, unless --yes is given.
    #[arg(long, value_name = "UNIT.N|UNIT|KEY", conflicts_with_all = ["to", "sweep"])]
    pub undo: Option<String>,
    /// Do it: with --undo.
    #[arg(long, requires = "undo", conflicts_with = "dry_run")]
    pub yes: bool,
    /// Write and delete nothing, only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// A JSON object a line: one for each step, the last one the summary.
    #[arg(long)]
    pub json: bool,
}

/// What objects become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompactTo {
    /// Parquet.
    Parquet,
}

fn size(text: &str) -> Result<u64, String> {
    match crate::config::size_of(text) {
        Some(bytes) if bytes >= SIZE_LEAST => Ok(bytes),
        _ => Err("a size of at least 64KiB is needed: a whole number with KiB, MiB or GiB, as in 256MiB".to_string()),
    }
}

/// Least `--target-size`.
const SIZE_LEAST: u64 = 64 << 10;

fn period_ms(text: &str) -> Result<i64, String> {
    let ms = crate::config::time_of(text).and_then(|time| i64::try_from(time.as_millis()).ok());
    ms.ok_or_else(|| "a time is needed: a whole number with s, m, h or d, as in 24h".to_string())
}

/// Numbers of Kafka partitions, in order, each once.
pub type Partitions = std::collections::BTreeSet<i32>;

/// Reads `0-3,7`.
fn partition_numbers(text: &str) -> Result<Partitions, String> {
    let number = |text: &str| match text.trim().parse::<i32>() {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(format!("{text:?} is no Kafka partition: numbers and ranges are needed, as in 0-3,7")),
    };
    let mut all = Partitions::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last - first > PARTITIONS_MAX {
            return Err(format!("{part:?} is no range of Kafka partitions"));
        }
        all.extend(first..=last);
    }
    Ok(all)
}

/// `restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// Which part of the archive, of which output. Without --output: whole records, else raw payloads, else the first output.
    #[command(flatten)]
    pub part: PartArgs,
    /// The topic that was archived.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// The topic to produce into. It must be there.
    #[arg(long, value_name = "TOPIC")]
    pub to_topic: String,
    /// Brokers of another cluster to produce into, with the other settings of [kafka].
    #[arg(long, value_name = "HOST:PORT,…")]
    pub to_brokers: Option<String>,
    /// Only records that meet this condition, in the language of filters: .status >= 500. Of raw payloads and whole records: their JSON.
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
    /// Each record into the partition that it was in; otherwise its key decides, as with Java's producer.
    #[arg(long)]
    pub preserve_partitions: bool,
    /// At most so many records a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: Option<u64>,
    /// Name of the job. Without it: a name that follows from the other arguments.
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// Restore all the same where old timestamps are replaced or deleted soon, where the archive archives it again, or where nobody knows.
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub accept: Vec<crate::restore::target::Accept>,
    /// Produce nothing, only say what would be restored, what is lost, and what speaks against it.
    #[arg(long)]
    pub dry_run: bool,
    /// JSON lines instead of text.
    #[arg(long)]
    pub json: bool,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Kafka partitions of one range on the command line.
const PARTITIONS_MAX: i32 = 100_000;

/// `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Folder for the archive; a new temporary folder where none is given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many access logs to produce and archive.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub records: u64,
}

/// `help`.
#[derive(Clone, Debug, Args)]
pub struct HelpArgs {
    /// Name of the page; without it, the list of all pages.
    #[arg(value_name = "TOPIC")]
    pub topic: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn moments_are_times_days_or_ages() {
        let at = |text: &str| moment(text).map(|moment| moment.at(1_000_000_000_000));
        assert_eq!(at("2025-11-21T08:00:00+01:00"), Ok(1_763_708_400_000));
        assert_eq!(at("2025-11-21"), Ok(1_763_683_200_000));
        assert_eq!(at("90s"), Ok(999_999_910_000));
        assert_eq!(at("3d"), Ok(1_000_000_000_000 - 3 * 86_400_000));
        for wrong in ["", "h", "-1h", "2025-11", "2025-11-21T08:00:00", "1w"] {
            at(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn commands_are_read() {
        for (line, good) in [
            ("run -c a.toml --drain --resume-from-receipts --log-format json --log-level debug", true),
            ("check -c a.toml --connect -v", true),
            ("inspect --config a.toml --json", true),
            ("preview -c a.toml -n 5 --topic t --json", true),
            ("preview -c a.toml --lines -", true),
            ("preview -c a.toml --lines a --records b", false),
            ("preview -c a.toml -n 0", false),
            (
                "backfill -c a.toml --topic t --partition 0-3,7 --from-offset 5 --to-offset 9 --job j --parallel 2 --dry-run",
                true,
            ),
            (
                "backfill -c a.toml --topic t --from-time 2025-11-21T08:00:00Z --to-time 2025-11-21T09:00:00Z --json",
                true,
            ),
            ("backfill -c a.toml --topic t --from-time 2025-11-21T08:00:00Z --to-offset 9", false),
            ("backfill -c a.toml --topic t --partition 3-1", false),
            ("backfill -c a.toml --topic t --cancel", false),
            ("backfill -c a.toml --topic t --partition 0 --missing --deep --dry-run", true),
            ("backfill -c a.toml --topic t --missing --from-offset 3", false),
            ("backfill -c a.toml --topic t --deep", false),
            ("backfill -c a.toml --topic t --into s3://b/x --from-offset 3", true),
            ("backfill -c a.toml --topic t --into s3://b/x --missing", false),
            ("backfill -c a.toml", false),
            (
                "restore -c a.toml --topic t --to-topic u --partition 0-3,7 --from-offset 5 --to-offset 9 --preserve-partitions --rate 100 --job j",
                true,
            ),
            (
                "restore -c a.toml --topic t --to-topic u --since 2025-11-21 --where .a==1 --accept timestamps,retention --dry-run --json",
                true,
            ),
            ("restore -c a.toml --topic t", false),
            ("restore -c a.toml --topic t --to-topic u --accept all", false),
            ("restore -c a.toml --topic t --to-topic u --rate 0", false),
            ("demo --dir /tmp/x --records 10", true),
            ("demo --records 0", false),
            ("help", true),
            ("help layout", true),
            ("ls -c a.toml --topic t --partition 0-3,7 --since 2025-11-21 --until 2h --folders --json", true),
            ("ls -c a.toml --partition 3-1", false),
            ("ls -c a.toml --folders --summary", false),
            ("ls -c a.toml --since yesterday", false),
            ("cat -c a.toml --topic t --since 2025-11-21T08:00:00Z --grep 50[0-9] -n 10 -f --json", true),
            ("cat -c a.toml --topic t --from-offset 5 --to-offset 9 --order time --where .a==1 --raw", true),
            ("cat -c a.toml", false),
            ("cat -c a.toml --topic t --json --raw", false),
            ("find t.u/3/123456 -c a.toml --json", true),
            ("find t/3 -c a.toml", false),
            ("find t/-3/1 -c a.toml", false),
            ("find t/3/1/1 -c a.toml", false),
            ("dead-letters list -c a.toml --archive a --topic t --partition 0,3 --partition 7 --reasons --json", true),
            ("dead-letters show -c a.toml --offset 17 --raw", true),
            ("dead-letters show -c a.toml --json --raw", false),
            (
                "dead-letters replay -c a.toml --since 2025-11-21T08:00:00Z --until 2025-11-22T08:00:00+01:00 --dry-run",
                true,
            ),
            ("dead-letters replay -c a.toml --since yesterday", false),
            ("dead-letters replay -c a.toml --stage decode,row --limit 5", true),
            ("dead-letters replay -c a.toml --stage lost", false),
            ("dead-letters", false),
            ("verify -c a.toml --archive a --topic t --partition 0,3 --deep --against-kafka --json", true),
            ("verify -c a.toml --since 2025-11-21T08:00:00Z --until 2025-11-22T08:00:00Z", true),
            ("verify -c a.toml --partition -1", false),
            ("fold -c a.toml --archive a --topic t --min-age 90m --dry-run --json", true),
            ("fold -c a.toml --min-age yesterday", false),
            (
                "compact -c a.toml --before 2d --topic t --partition 0-3 --to parquet --nulls-as-missing --target-size 64MiB --min-age 0s --json",
                true,
            ),
            ("compact -c a.toml --before 2025-11-21 --sweep --dry-run", true),
            ("compact -c a.toml --undo 5f0c --yes", true),
            ("compact -c a.toml", false),
            ("compact -c a.toml --before 2d --yes", false),
            ("compact -c a.toml --before 2d --nulls-as-missing", false),
            ("compact -c a.toml --before 2d --target-size 64MB", false),
            ("compact -c a.toml --before 2d --target-size 1KiB", false),
            ("compact -c a.toml --before 2d --min-age 24", false),
            ("run -c a.toml --log-format xml", false),
            ("walk", false),
            ("", false),
        ] {
            let words = std::iter::once("siltstone").chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).is_ok(), good, "{line}");
        }
    }
}
