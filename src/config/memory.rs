//! `[memory] budget`: how it is shared out, and what does not fit it.
//!
//! What is accepted here runs within the budget: see [`MemoryShares`] for how each share is kept.

use super::archive::Placed;
use super::error::Errors;
use super::raw::{Field, Section};
use super::units::show_size;
use super::{Config, resolve::MIB};

/// How `[memory] budget` is shared out, in bytes. The rest is the allocator's, the stacks' and the code's: 3/8 of it, less
/// where row groups or destinations are at their most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShares {
    /// The Kafka client's queues: 1/8.
    pub kafka: u64,
    /// Plain rows that do not fill a block: 3/16; what exceeds it is spilled.
    pub rows: u64,
    /// Blocks that await or undergo encoding: 3/16. Records are taken until it is full, so one block may come on top; as
    /// many are encoded side by side as fit it with what encoding takes beside the rows, and one always.
    pub encode: u64,
    /// The largest row group: 1/8. To encode one takes two and a half times that.
    pub row_group: u64,
    /// Pieces of objects on their way up: 1/8, shared out among the destinations. Uploads wait for room in it.
    pub upload: u64,
}

/// What uploads to one destination have at least: the smallest piece that S3 takes.
const UPLOAD_LEAST: u64 = 5 * MIB;

impl MemoryShares {
    /// The shares of `budget` bytes.
    pub fn of(budget: u64) -> Self {
        let (eighth, three_sixteenths) = (budget / 8, budget / 16 * 3);
        Self { kafka: eighth, rows: three_sixteenths, encode: three_sixteenths, row_group: eighth, upload: eighth }
    }

    /// What uploads to each of so many destinations have: equal shares, but at least [`UPLOAD_LEAST`], so that a store
    /// which does not answer takes nothing from the others.
    pub fn upload_to_each(self, destinations: usize) -> u64 {
        (self.upload / (destinations as u64).max(1)).max(UPLOAD_LEAST)
    }

    /// The least budget, in whole MiB, that takes row groups of `bytes` bytes.
    fn budget_for_row_group(bytes: u64) -> u64 {
        (bytes * 8).div_ceil(MIB) * MIB
    }

    /// The least budget, in whole MiB, whose share for uploads holds a piece of `bytes` bytes for each destination.
    fn budget_for_pieces(bytes: u64, destinations: u64) -> u64 {
        (bytes * 8 * destinations.max(1)).div_ceil(MIB) * MIB
    }

    /// Refuses rows of one row group that encoding has no room for.
    pub(super) fn check_row_group(self, field: &Field<'_>, bytes: u64, budget: u64) -> Option<u64> {
        if bytes <= self.row_group {
            return Some(bytes);
        }
        field.wrong(
            format!(
                "more than the {} that memory.budget = \"{}\" has for a row group (1/8 of it)",
                show_size(self.row_group),
                show_size(budget)
            ),
            format!(
                "at most {}, or a memory.budget of at least {}",
                show_size(self.row_group),
                show_size(Self::budget_for_row_group(bytes))
            ),
        )
    }
}

/// Refuses more destinations than uploads have room for at the same time.
pub(super) fn check_destinations(config: &Config, memory: &Section<'_>, errors: &Errors) {
    let (budget, destinations) = (config.memory.budget, config.destinations.len() as u64);
    // An eighth, and half of one from the rest.
    if errors.about("memory.budget") || destinations * UPLOAD_LEAST <= budget / 16 * 3 {
        return;
    }
    let least = ((destinations * UPLOAD_LEAST).div_ceil(3) * 16).div_ceil(MIB) * MIB;
    memory.cross(
        "budget",
        format!(
            "{} is too little for {destinations} destinations: uploads to each have {} of their own, so that one which does \
             not answer holds up no other",
            show_size(budget),
            show_size(UPLOAD_LEAST)
        ),
        format!("at least {}, or fewer destinations", show_size(least)),
    );
}

/// Refuses pieces of uploads that their share has no room for, and more pieces of an object than stores take.
pub(super) fn check_pieces(config: &Config, archives: &[Placed<'_>], upload: &Section<'_>, errors: &Errors) {
    /// Most pieces that an object may be uploaded in: S3's limit.
    const PIECES_MOST: u64 = 10_000;
    if errors.about("upload.part_size") {
        return;
    }
    let (part_size, budget) = (config.upload.part_size, config.memory.budget);
    let share = MemoryShares::of(budget).upload;
    if part_size > share && !errors.about("memory.budget") {
        upload.cross(
            "part_size",
            format!(
                "more than the {} that memory.budget = \"{}\" has for uploads (1/8 of it)",
                show_size(share),
                show_size(budget)
            ),
            format!(
                "at most {}, or a memory.budget of at least {}",
                show_size(share),
                show_size(MemoryShares::budget_for_pieces(part_size, 1))
            ),
        );
    }
    let destinations = config.destinations.len();
    // Pieces are cut to what a destination has.
    let sent = part_size.min(MemoryShares::of(budget).upload_to_each(destinations));
    for archive in archives {
        let path = &archive.field.path;
        let size = archive.config.rotate.size;
        let piece = size.div_ceil(PIECES_MOST);
        if sent < piece && !errors.about(&format!("{path}.rotate.size")) && !errors.about("rotate.size") {
            let least = piece.div_ceil(MIB) * MIB;
            let cut = if sent < part_size {
                format!("cut to the {} of a destination, ", show_size(sent))
            } else {
                String::new()
            };
            upload.cross(
                "part_size",
                format!("{cut}too small for the rotate.size of {path}, {}", show_size(size)),
                format!(
                    "at least {}: an object has at most {PIECES_MOST} pieces; memory.budget is then at least {}",
                    show_size(least),
                    show_size(MemoryShares::budget_for_pieces(least, destinations as u64))
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::format;
    use crate::layout::OutputFormat;
    use crate::upload::UploadSettings;
    use std::path::Path;

    fn config(budget: &str, destinations: usize, part_size: &str, row_group: &str) -> Result<Config, String> {
        let others: String = (1..destinations).map(|one| format!("destinations.d{one}.url='s3://b{one}'\n")).collect();
        let text = format!(
            "kafka.brokers='k'\ndestinations.main.url='s3://b'\n{others}memory.budget='{budget}'\n\
             upload.part_size='{part_size}'\n[[archive]]\ntopics=['t']\n[[archive.output]]\ndestination='main'\n\
             format={{type='parquet',schema=[{{name='a',type='INT64'}}],row_group_bytes='{row_group}'}}"
        );
        parse(&text, Path::new(""), &|_| None).map_err(|errors| errors.to_string())
    }

    const SIZES: [&str; 9] = ["64MiB", "65MiB", "100MiB", "128MiB", "256MiB", "1GiB", "5GiB", "40GiB", "1TiB"];

    /// Goal: what passes runs within its budget. Method: for every accepted combination, all that may be in memory at the same
    /// time, by the rules that uploads and encoders keep to, is summed up.
    #[test]
    fn what_is_accepted_fits_its_budget() {
        let (mut accepted, mut refused) = (0, 0);
        for budget in SIZES {
            for destinations in [1, 2, 3, 10] {
                for part_size in ["5MiB", "8MiB", "9MiB", "64MiB", "5GiB"] {
                    for row_group in ["64KiB", "8MiB", "12MiB", "13MiB", "32MiB", "1GiB"] {
                        match config(budget, destinations, part_size, row_group) {
                            Ok(config) => {
                                accepted += 1;
                                fits(&config, &format!("{budget} {destinations} {part_size} {row_group}"));
                            }
                            Err(_) => refused += 1,
                        }
                    }
                }
            }
        }
        assert!(accepted > 200 && refused > 200, "{accepted} {refused}");
    }

    fn fits(config: &Config, what: &str) {
        let shares = MemoryShares::of(config.memory.budget);
        let output = &config.archives[0].layout.outputs[0].format;
        let OutputFormat::Parquet { row_group_bytes, .. } = output else { panic!("parquet") };
        let encoding = format::build(output, None, None).expect("a format").encoding_memory(*row_group_bytes);
        let room = shares.upload_to_each(config.destinations.len());
        let settings = UploadSettings::within(config.upload.part_size.min(room), room);
        assert!(settings.part_size >= 5 << 20, "{what}: S3 refuses smaller pieces");
        for bytes in [1, 5 << 20, 8 << 20, 100 << 20, 10 << 30] {
            assert!(settings.memory(bytes) <= room && settings.memory(bytes) > 0, "{what} {bytes}");
        }
        let uploads = room * config.destinations.len() as u64;
        // A block waits beside what is encoded.
        let encode = shares.encode.max(encoding) + row_group_bytes;
        let most = shares.kafka + shares.rows + encode + uploads;
        assert!(most <= config.memory.budget / 16 * 15, "{what}");
    }

    /// The budget that a message asks for is enough, and a MiB less is not.
    #[test]
    fn the_least_budget_is_the_least() {
        let mut cases = Vec::new();
        for size in ["9MiB", "64MiB", "333MiB", "1GiB"] {
            cases.extend([(1, size, "8MiB"), (1, "5MiB", size)]);
        }
        cases.extend([(3, "5MiB", "8MiB"), (10, "5MiB", "8MiB"), (100, "5MiB", "8MiB")]);
        for (destinations, part_size, row_group) in cases {
            let text = config("64MiB", destinations, part_size, row_group).map(drop).expect_err("too small a budget");
            let least = text.rsplit("at least ").next().expect("a budget");
            let least = least.split(',').next().expect("a budget").to_string();
            config(&least, destinations, part_size, row_group).expect("the least budget is enough");
            let bytes = crate::config::units::parse_size(&least).expect("a size");
            let less = format!("{}MiB", bytes / MIB - 1);
            config(&less, destinations, part_size, row_group).map(drop).expect_err("less than the least");
        }
    }
}
