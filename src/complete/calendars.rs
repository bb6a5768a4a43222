//! When the window of a folder ends, by the layout that wrote it.

use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::exit::{Exit, Failure};
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
    /// The store refuses, or does not answer. [`Exit::Stopped`]: it is not there, or damaged: nobody knows which windows its objects are of.
    pub async fn know(&mut self, bucket: &Bucket, clock: &dyn Clock, fingerprint: &str) -> Result<(), Failure> {
        if self.known.contains_key(fingerprint) {
            return Ok(());
        }
        let what = format!("read the layout {fingerprint}, which tells when folders are over");
        let folders = patiently(clock, &what, || bucket.layout_folders(fingerprint)).await?;
        let folders = folders.iter().map(|output| (&*output.name, &*output.place.path, &*output.place.zone));
        let read = calendars_of(folders).map_err(|why| Failure::new(Exit::Stopped, format!("{what}: {why}")))?;
        if self.known.len() >= LAYOUTS_MAX {
            self.known.clear();
        }
        self.known.insert(fingerprint.to_string(), read);
        Ok(())
    }
}

/// By output, where its folders show time.
pub fn calendars(layout: &Layout) -> BTreeMap<String, Calendar> {
    let outputs = layout.outputs.iter().map(|output| (&*output.name, &*output.place.path, &*output.place.zone));
    // What cannot be read of a configuration is told elsewhere.
    calendars_of(outputs).unwrap_or_default()
}

/// Of name, template of the path and zone.
fn calendars_of<'l>(
    outputs: impl Iterator<Item = (&'l str, &'l str, &'l str)>,
) -> Result<BTreeMap<String, Calendar>, String> {
    let mut calendars = BTreeMap::new();
    for (name, path, zone) in outputs {
        let zone: Tz = zone.parse().map_err(|_| format!("this release does not know the zone {zone:?}"))?;
        let path = Template::parse(path, TemplateKind::Path).map_err(|error| error.to_string())?;
        let directives = path.pieces().filter_map(|piece| match piece {
            Piece::Time(directive) => Some(directive),
            _ => None,
        });
        let calendar = Calendar::new(zone, directives);
        if calendar.shows_time() {
            calendars.insert(name.to_string(), calendar);
        }
    }
    Ok(calendars)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: windows that come back are told from those that do not.
    #[test]
    fn a_time_without_its_date_comes_back() {
        let cases = [
            ("%Y-%m-%d/%H", false),
            ("%Y/%m", false),
            ("%Y", false),
            ("%F/%H%M", false),
            ("%G-W%V", false),
            ("%Y%j", false),
            ("%H", true),
            ("%d/%H", true),
            ("%m-%d", true),
            ("%F/%I", true),
            ("%F/%M", true),
            ("%y%m%d", false),
            ("%A", true),
        ];
        for (path, comes_back) in cases {
            let calendars = calendars_of([("json", path, "Europe/Berlin")].into_iter()).expect("right");
            assert_eq!(calendars["json"].comes_back(), comes_back, "{path}");
        }
        assert!(calendars_of([("json", "{topic}", "UTC")].into_iter()).expect("right").is_empty());
        assert!(calendars_of([("json", "%H", "Mars/Olympus")].into_iter()).is_err());
    }
}
