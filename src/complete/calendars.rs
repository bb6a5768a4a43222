//! When the window of a folder ends, by the layout that wrote it.

use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::exit::Failure;
use crate::layout::Layout;
use crate::layout::calendar::Calendar;
use crate::layout::template::{Piece, Template, TemplateKind};
use crate::pipeline::start::patiently;
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

    /// Reads the layout with that fingerprint, unless it was read before.
    ///
    /// # Errors
    /// The store refuses, or does not answer. [`crate::exit::Exit::Stopped`]: it is not there, or damaged: nobody knows which windows its objects are of.
    pub async fn know(&mut self, bucket: &Bucket, clock: &dyn Clock, fingerprint: &str) -> Result<(), Failure> {
        if self.known.contains_key(fingerprint) {
            return Ok(());
        }
        let what = format!("read the layout {fingerprint}, which tells when folders are over");
        let folders = patiently(clock, &what, || bucket.layout_folders(fingerprint)).await?;
        let folders = folders.iter().map(|output| (&*output.name, &*output.place.path, &*output.place.zone));
        let read = calendars_of(folders);
        if self.known.len() >= LAYOUTS_MAX {
            self.known.clear();
        }
        self.known.insert(fingerprint.to_string(), read);
        Ok(())
    }
}

/// By output, where its folders show time.
pub fn calendars(layout: &Layout) -> BTreeMap<String, Calendar> {
    calendars_of(layout.outputs.iter().map(|output| (&*output.name, &*output.place.path, &*output.place.zone)))
}

/// Of name, template of the path and zone.
fn calendars_of<'l>(outputs: impl Iterator<Item = (&'l str, &'l str, &'l str)>) -> BTreeMap<String, Calendar> {
    let calendar = |path: &str, zone: &str| {
        let zone: Tz = zone.parse().ok()?;
        let path = Template::parse(path, TemplateKind::Path).ok()?;
        let directives = path.pieces().filter_map(|piece| match piece {
            Piece::Time(directive) => Some(directive),
            _ => None,
        });
        Some(Calendar::new(zone, directives)).filter(Calendar::shows_time)
    };
    outputs.filter_map(|(name, path, zone)| Some((name.to_string(), calendar(path, zone)?))).collect()
}
