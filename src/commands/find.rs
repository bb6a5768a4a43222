//! `siltstone find`: where one offset is.

use super::{Unprinted, ended, print_json};
use crate::cli::{FindArgs, RecordId};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::ledger::Destinations;
use crate::parse::text::printable;
use crate::pipeline::start::open_destinations;
use crate::reader::find::{Fate, InOutput, Whereabouts, find as find_in_site};
use crate::reader::plan::{Wanted, sites};
use crate::record::TopicPartition;
use serde::Serialize;
use std::io::Write;

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    archive: &'a str,
    #[serde(flatten)]
    found: &'a Whereabouts,
}

/// Writes to `out` where the record is. [`Exit::Failed`] where it is nowhere.
///
/// # Errors
/// A store refuses or does not answer; a receipt, layout or object is damaged. [`Exit::Config`]: no archive takes the topic.
pub async fn find(args: &FindArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    find_in(args, config, &open_destinations(config)?, &SystemClock::new(), out).await
}

/// The same with opened destinations.
///
/// # Errors
/// As [`find`].
pub async fn find_in(
    args: &FindArgs,
    config: &Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let RecordId { topic, partition, offset } = &args.record;
    let Some(archive) = config.archives.iter().find(|archive| archive.topics.matches(topic)) else {
        return Err(Failure::new(Exit::Config, format!("no archive of this configuration takes the topic {topic}")));
    };
    let partition = TopicPartition::new(topic.as_str(), *partition);
    let wanted = Wanted {
        archive: Some(archive.name.clone()),
        topic: Some(topic.clone()),
        partitions: vec![partition.partition..=partition.partition],
        ..Wanted::default()
    };
    let sites = sites(config, destinations, clock, &wanted).await?;
    let found = match sites.iter().find(|site| site.partitions.contains(&partition)) {
        Some(site) => find_in_site(site, destinations, clock, &partition, *offset).await?,
        None => Whereabouts::NoReceipts,
    };
    let printed = match args.json {
        true => {
            let archive = archive.name.as_str();
            let line = Line { topic, partition: partition.partition, offset: *offset, archive, found: &found };
            print_json(out, &line)
        }
        false => {
            let what = format!("{partition} offset {offset}");
            out.write_all(text(&what, &archive.name, &found).as_bytes()).map_err(Unprinted::from)
        }
    };
    let exit = if found.is_somewhere() { Exit::Done } else { Exit::Failed };
    ended(printed.map(|()| exit))
}

fn text(what: &str, archive: &str, found: &Whereabouts) -> String {
    let begun = |begun: bool| if begun { ". A batch there is begun and has no receipt yet" } else { "" };
    match found {
        Whereabouts::NoReceipts => {
            format!("{what} is not archived: archive {archive} has no receipt of that partition\n")
        }
        Whereabouts::Below { begins } => {
            format!("{what} is not archived: archive {archive} begins at offset {begins} of that partition\n")
        }
        Whereabouts::Above { ends, begun: is_begun } => {
            format!("{what} is not archived yet: archive {archive} reaches up to offset {ends}{}\n", begun(*is_begun))
        }
        Whereabouts::Gap { first, end, begun: is_begun } => format!(
            "{what} is not archived: no receipt of archive {archive} covers [{first}, {end}){}\n",
            begun(*is_begun)
        ),
        Whereabouts::Absent { batch, cause } => {
            format!(
                "{what} was gone before it could be archived ({cause}); the batch is {batch} of archive {archive}\n"
            )
        }
        Whereabouts::Batch { batch, outputs } => {
            let mut text = format!("{what} is in the batch {batch} of archive {archive}\n");
            outputs.iter().for_each(|output| in_output(output, &mut text));
            text
        }
    }
}

fn in_output(output: &InOutput, text: &mut String) {
    let why = output.why.as_deref().unwrap_or_default();
    let said = match output.fate {
        Fate::Archived => "archived".to_string(),
        Fate::Possible if output.objects.len() == 1 => format!("in this object, if at all: {why}"),
        Fate::Possible => format!("in one of {} objects, if at all: {why}", output.objects.len()),
        Fate::DeadLetter => "a dead letter".to_string(),
        Fate::NotThere => format!("not there: {why}"),
    };
    *text += &format!("  {:<12} {said}\n", output.output);
    for object in &output.objects {
        let rows: Vec<String> = object.rows.iter().map(u64::to_string).collect();
        let rows = if rows.is_empty() { String::new() } else { format!("  row {}", rows.join(", ")) };
        let destination = object.destinations.first().map_or("", String::as_str);
        *text += &format!("      {destination}/{}{rows}\n", object.key);
    }
    for letter in &output.dead_letters {
        let row = letter.row.map_or(String::new(), |row| format!(" (its row {row})"));
        let reason: String = letter.reason.chars().flat_map(printable).collect();
        *text += &format!("      dead letter{row}, {}: {reason}\n      {}\n", letter.stage, letter.key);
    }
}
