//! When the window of a folder ends, by the layout that wrote it.

use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::destination::fault::Verdict;
use crate::exit::Failure;
use crate::layout::calendar::Calendar;
use crate::layout::template::{Piece, Template, TemplateKind};
use crate::layout::{Layout, OutputLayout, Place};
use crate::pipeline::start::{chain, patiently};
use chrono_tz::Tz;
use std::collections::BTreeMap;

/// Calendars of outputs by layout and output; `None` where the output is not one of rows, or its folders show no time.
#[derive(Debug, Default)]
pub struct Calendars {
    known: BTreeMap<String, BTreeMap<String, Calendar>>,
}

/// Layouts whose calendars are kept.
const LAYOUTS_MAX: usize = 1_000;

impl Calendars {
    /// The calendar of the folders of `output` in the layout with that fingerprint; `None` where there is none. Dead letters are not among the outputs.
    pub fn of(&self, fingerprint: &str, output: &str) -> Option<&Calendar> {
        self.known.get(fingerprint)?.get(output)
    }

    /// Reads the layout with that fingerprint, unless it was read before. One that nobody can read has no calendars.
    ///
    /// # Errors
    /// The store refuses, or does not answer.
    pub async fn know(&mut self, bucket: &Bucket, clock: &dyn Clock, fingerprint: &str) -> Result<(), Failure> {
        if self.known.contains_key(fingerprint) {
            return Ok(());
        }
        let read = || async {
            match bucket.get_layout(fingerprint).await {
                Ok(layout) => Ok(calendars(&layout)),
                Err(error) if error.verdict() == Verdict::Stop => {
                    tracing::warn!(fingerprint, "folders of this layout are never complete: {}", chain(&error));
                    Ok(BTreeMap::new())
                }
                Err(error) => Err(error),
            }
        };
        let read = patiently(clock, "read a layout", read).await?;
        if self.known.len() >= LAYOUTS_MAX {
            self.known.clear();
        }
        self.known.insert(fingerprint.to_string(), read);
        Ok(())
    }
}

/// By output, where its folders show time.
pub fn calendars(layout: &Layout) -> BTreeMap<String, Calendar> {
    let calendar = |place: &Place| {
        let zone: Tz = place.zone.parse().ok()?;
        let path = Template::parse(&place.path, TemplateKind::Path).ok()?;
        let directives = path.pieces().filter_map(|piece| match piece {
            Piece::Time(directive) => Some(directive),
            _ => None,
        });
        Some(Calendar::new(zone, directives)).filter(Calendar::shows_time)
    };
    let of = |output: &OutputLayout| Some((output.name.clone(), calendar(&output.place)?));
    layout.outputs.iter().filter_map(of).collect()
}
