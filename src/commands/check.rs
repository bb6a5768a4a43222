//! `siltstone check`: everything that can be known before the first record is read.

use crate::bucket::Bucket;
use crate::cli::CheckArgs;
use crate::commands::run::{Connected, connect};
use crate::config::{self, Config};
use crate::consume::Source;
use crate::exit::{Exit, Failure};
use crate::pipeline::start::{StartError, chain, open_destinations};
use std::io::Write;
use std::time::Duration;

/// Checks `config`, which has already been read; with `--connect` also Kafka and the destinations. Writes what it found to
/// `out`, one line each, and goes on after a failure so that all are seen at once.
///
/// # Errors
/// The first failure's exit code, when anything failed.
pub async fn check(args: &CheckArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut report = Report { out, worst: None };
    report.good(&format!("{}: the configuration is right", args.config.config.display()))?;
    if args.verbose {
        report.text(&config::effective_toml(config))?;
    }
    if args.connect {
        check_destinations(config, &mut report).await?;
        check_kafka(config, &mut report).await?;
    }
    match report.worst {
        None => Ok(Exit::Done),
        Some(exit) => Err(Failure::new(exit, "check: something is wrong, see above")),
    }
}

struct Report<'a> {
    out: &'a mut dyn Write,
    worst: Option<Exit>,
}

impl Report<'_> {
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}")
            .map_err(|error| Failure::new(Exit::Failed, format!("write to the terminal: {error}")))
    }
    fn good(&mut self, text: &str) -> Result<(), Failure> {
        self.text(&format!("ok    {text}"))
    }
    fn bad(&mut self, exit: Exit, text: &str) -> Result<(), Failure> {
        self.worst.get_or_insert(exit);
        self.text(&format!("FAIL  {text}"))
    }
}

async fn check_destinations(config: &Config, report: &mut Report<'_>) -> Result<(), Failure> {
    let destinations = match open_destinations(config) {
        Ok(destinations) => destinations,
        Err(failure) => return report.bad(failure.exit, &failure.message),
    };
    for (url, destination) in destinations {
        let creates = destination.conditional_put();
        let bucket = Bucket::new(destination);
        match bucket.probe().await {
            Ok(()) if creates => report.good(&format!("{url}: put, get, list, delete and create-if-absent work"))?,
            Ok(()) => report.good(&format!(
                "{url}: put, get, list and delete work; without create-if-absent the plan in Kafka is the only fence"
            ))?,
            Err(error) => {
                report.bad(error.exit().unwrap_or(Exit::Unreachable), &format!("{url}: {}", chain(&error)))?
            }
        }
    }
    Ok(())
}

async fn check_kafka(config: &Config, report: &mut Report<'_>) -> Result<(), Failure> {
    let Connected { mut source, topics, cluster, .. } = match connect(config).await {
        Ok(connected) => connected,
        Err(failure) => return report.bad(failure.exit, &failure.message),
    };
    report.good(&cluster)?;
    for archive in &config.archives {
        for name in archive.topics.names.iter().filter(|name| !topics.contains_key(*name)) {
            report.bad(
                Exit::Refused,
                &format!(
                    "archive {}: topic {name} does not exist; it would be found within 60 s of being created",
                    archive.name
                ),
            )?;
        }
    }
    for (topic, partitions) in &topics {
        let owner = config.archives.iter().find(|archive| archive.topics.matches(topic));
        let owner = owner.map_or("", |archive| archive.name.as_str());
        report.good(&format!("topic {topic}: {partitions} Kafka partitions, archive {owner}"))?;
    }
    if topics.is_empty() {
        report.bad(Exit::Refused, "no topic matches any archive")?;
    }
    let closed = tokio::task::spawn_blocking(move || source.close(Duration::from_secs(5))).await;
    closed.map_err(|error| Failure::new(Exit::Failed, format!("leave the group: {error}")))
}
