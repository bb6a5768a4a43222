//! `[memory] budget`: how it is shared out, and what does not fit it.
//!
//! What is accepted here runs within the budget: see [`MemoryShares`] for how each share is kept.

use super::archive::Placed;
use super::error::Errors;
use super::raw::{Field, Section};
use super::units::show_size;
use super::{Config, resolve::MIB};

/// How `[memory] budget` is shared out, in bytes. The rest (5/16) is the allocator's, the stacks' and the code's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShares {
    /// The Kafka client's queues: 1/8.
    pub kafka: u64,
    /// Plain rows that do not fill a block: 1/4; what exceeds it is spilled.
    pub rows: u64,
    /// Blocks that await or undergo encoding: 3/16. Records are taken until it is full, so one block may come on top: a row
    /// group is at most this large.
    pub encode: u64,
    /// Pieces of objects on their way up: 1/8. Uploads wait for room in it; it holds one piece at least.
    pub upload: u64,
}

impl MemoryShares {
    /// The shares of `budget` bytes.
    pub fn of(budget: u64) -> Self {
        Self { kafka: budget / 8, rows: budget / 4, encode: budget / 16 * 3, upload: budget / 8 }
    }

    /// The least budget, in whole MiB, whose share for encoding holds a row group of `bytes` bytes.
    fn budget_for_row_group(bytes: u64) -> u64 {
        (bytes.div_ceil(3) * 16).div_ceil(MIB) * MIB
    }

    /// The least budget, in whole MiB, whose share for uploads holds a piece of `bytes` bytes.
    fn budget_for_piece(bytes: u64) -> u64 {
        (bytes * 8).div_ceil(MIB) * MIB
    }

    /// Refuses rows of one row group that encoding has no room for.
    pub(super) fn check_row_group(self, field: &Field<'_>, bytes: u64, budget: u64) -> Option<u64> {
        if bytes <= self.encode {
            return Some(bytes);
        }
        field.wrong(
            format!(
                "more than the {} that memory.budget = \"{}\" has for encoding (3/16 of it)",
                show_size(self.encode),
                show_size(budget)
            ),
            format!(
                "at most {}, or a memory.budget of at least {}",
                show_size(self.encode),
                show_size(Self::budget_for_row_group(bytes))
            ),
        )
    }
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
                show_size(MemoryShares::budget_for_piece(part_size))
            ),
        );
    }
    for archive in archives {
        let path = &archive.field.path;
        let size = archive.config.rotate.size;
        let piece = size.div_ceil(PIECES_MOST);
        if part_size < piece && !errors.about(&format!("{path}.rotate.size")) && !errors.about("rotate.size") {
            let least = piece.div_ceil(MIB) * MIB;
            upload.cross(
                "part_size",
                format!("too small for the rotate.size of {path}, {}", show_size(size)),
                format!(
                    "at least {}: an object has at most {PIECES_MOST} pieces; memory.budget is then at least {}",
                    show_size(least),
                    show_size(MemoryShares::budget_for_piece(least))
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::layout::OutputFormat;
    use crate::upload::UploadSettings;
    use std::path::Path;

    fn config(budget: &str, part_size: &str, row_group: &str) -> Result<Config, String> {
        let text = format!(
            "kafka.brokers='k'\ndestinations.main.url='s3://b'\nmemory.budget='{budget}'\nupload.part_size='{part_size}'\n\
             [[archive]]\ntopics=['t']\n[[archive.output]]\nformat={{type='parquet',row_group_bytes='{row_group}'}}"
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
            for part_size in ["5MiB", "8MiB", "9MiB", "64MiB", "5GiB"] {
                for row_group in ["64KiB", "8MiB", "12MiB", "13MiB", "48MiB", "1GiB"] {
                    let Ok(config) = config(budget, part_size, row_group) else {
                        refused += 1;
                        continue;
                    };
                    accepted += 1;
                    let shares = MemoryShares::of(config.memory.budget);
                    let OutputFormat::Parquet { row_group_bytes, .. } = config.archives[0].layout.outputs[0].format
                    else {
                        panic!("parquet")
                    };
                    let settings = UploadSettings::within(config.upload.part_size, shares.upload);
                    for bytes in [1, 5 << 20, 8 << 20, 100 << 20, 10 << 30] {
                        assert!(settings.memory(bytes) <= shares.upload, "{budget} {part_size} {bytes}");
                        assert!(settings.memory(bytes) > 0);
                    }
                    let most = shares.kafka + shares.rows + shares.encode + row_group_bytes + shares.upload;
                    assert!(most <= config.memory.budget / 16 * 15, "{budget} {part_size} {row_group}");
                }
            }
        }
        assert!(accepted > 50 && refused > 50, "{accepted} {refused}");
    }

    /// The budget that a message asks for is enough, and a MiB less is not.
    #[test]
    fn the_least_budget_is_the_least() {
        for size in ["9MiB", "64MiB", "333MiB", "1GiB"] {
            for (part_size, row_group) in [(size, "8MiB"), ("5MiB", size)] {
                let text = config("64MiB", part_size, row_group).map(drop);
                let Err(text) = text else {
                    assert_eq!((size, row_group), ("9MiB", "9MiB"), "3/16 of 64 MiB are 12");
                    continue;
                };
                let least = text.rsplit("at least ").next().expect("a budget").to_string();
                config(&least, part_size, row_group).expect("the least budget is enough");
                let bytes = crate::config::units::parse_size(&least).expect("a size");
                let less = format!("{}MiB", bytes / MIB - 1);
                config(&less, part_size, row_group).map(drop).expect_err("less than the least");
            }
        }
    }
}
