//! `siltstone dead-letters show`: dead letters as they are, or the payload of one.

use super::{selection, shown, write_json, wrote};
use crate::cli::ShowArgs;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::format::dead_letter::letter::Letter;
use crate::parse::text::text_or_base64;
use crate::parse::timestamp::render_instant;
use crate::pipeline::start::open_destinations;
use crate::reader::row::ShownRecord;
use crate::replay::find::{batches, sites};
use crate::replay::read::Letters;
use futures::TryStreamExt;
use serde::Serialize;
use std::io::Write;

/// A dead letter, in a form that `preview --records` reads: text where it is text, else base64.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    object: &'a str,
    #[serde(flatten)]
    record: ShownRecord<'a>,
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<u32>,
    stage: &'a str,
    outputs: &'a [String],
    reason: &'a str,
}

/// Writes dead letters to `out`, in the order of archives, Kafka partitions and offsets.
///
/// # Errors
/// A store refuses or does not answer; an object is damaged or gone; with `--raw`, none or several records are meant.
pub(super) async fn show(args: &ShowArgs, config: &Config, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (destinations, clock) = (open_destinations(config)?, SystemClock::new());
    let selection = selection(&args.letters);
    let mut count = 0;
    let mut only: Option<Letter> = None;
    for site in sites(config, &destinations, &clock, &selection).await? {
        for partition in &site.partitions {
            let mut batches = batches(&site, partition, &clock, &selection).await?;
            while let Some(batch) = batches.try_next().await? {
                for object in &batch.objects {
                    let mut letters = Letters::open(&batch, object, &destinations).await?;
                    while let Some(letter) = letters.next().await? {
                        if !selection.takes(&letter) {
                            continue;
                        }
                        if args.raw {
                            one_record(&mut only, letter)?;
                            continue;
                        }
                        if args.json {
                            write_json(out, &as_shown(&object.key, &letter))?
                        } else {
                            write_text(out, &letter)?
                        }
                        count += 1;
                        if count >= args.count {
                            return Ok(Exit::Done);
                        }
                    }
                }
            }
        }
    }
    if args.raw {
        let none = || Failure::new(Exit::Refused, "dead-letters show --raw: there is no such dead letter");
        let payload = only.ok_or_else(none)?.record.value.ok_or_else(|| {
            Failure::new(Exit::Refused, "dead-letters show --raw: the record has no payload (a tombstone)")
        })?;
        out.write_all(&payload).map_err(wrote)?;
    }
    Ok(Exit::Done)
}

/// Remembers `letter`, which must be of the record of those before.
fn one_record(only: &mut Option<Letter>, letter: Letter) -> Result<(), Failure> {
    match only {
        None => *only = Some(letter),
        Some(known) if known.record == letter.record => {}
        Some(known) => {
            let place = |letter: &Letter| {
                let record = &letter.record;
                format!("{}/{} offset {}", record.topic, record.partition, record.offset)
            };
            let what = format!(
                "dead-letters show --raw: more than one record is meant ({} and {}): say which with --topic, --partition and --offset",
                place(known),
                place(&letter)
            );
            return Err(Failure::new(Exit::Config, what));
        }
    }
    Ok(())
}

fn as_shown<'a>(object: &'a str, letter: &'a Letter) -> Shown<'a> {
    Shown {
        object,
        record: ShownRecord::of(&letter.record),
        index: letter.index,
        row: letter.row,
        stage: &letter.stage,
        outputs: &letter.outputs,
        reason: &letter.reason,
    }
}

fn write_text(out: &mut dyn Write, letter: &Letter) -> Result<(), Failure> {
    let record = &letter.record;
    let bytes = |bytes: Option<&[u8]>| match text_or_base64(bytes) {
        (Some(text), _) => shown(text),
        (None, Some(base64)) => format!("base64 {base64}"),
        (None, None) => "null".to_string(),
    };
    let mut text = format!("{}/{} offset {} index {}", record.topic, record.partition, record.offset, letter.index);
    if let Some(row) = letter.row {
        text += &format!(" row {row}");
    }
    text += &format!("  {}\n", record.timestamp.map_or("no timestamp".to_string(), render_instant));
    text += &format!("  {:<10} {}\n", letter.stage, shown(&letter.reason));
    text += &format!("  missing in {}\n", letter.outputs.join(", "));
    text += &format!("  key        {}\n", bytes(record.key.as_deref()));
    for (name, value) in &record.headers {
        text += &format!("  header     {}: {}\n", shown(name), bytes(value.as_deref()));
    }
    text += &format!("  payload    {}\n", bytes(record.value.as_deref()));
    out.write_all(text.as_bytes()).map_err(wrote)
}
