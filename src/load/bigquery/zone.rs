//! Whether a layout's folders are partitions of BigQuery's: hours or days of UTC, each of them once. Pure.
//!
//! A load replaces a whole partition. A folder that holds half of one would take the other half away, and rows of a folder that reaches
//! into the next one would be refused, or be where nobody looks for them.

use super::Granularity;
use crate::layout::calendar::Calendar;
use crate::layout::directive::Directive;
use crate::layout::template::{Piece, Template, TemplateKind};
use chrono_tz::Tz;
use std::collections::BTreeMap;

/// 2000-01-01 and 2100-01-01: what a zone did before is no matter for what is archived, and later rules are today's.
const FROM_MS: i64 = 946_684_800_000;
const TO_MS: i64 = 4_102_444_800_000;
const HOUR_MS: i64 = Granularity::Hour.ms();
const DAY_MS: i64 = Granularity::Day.ms();

/// Why the folders of a layout are no partitions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// No path, or no zone.
    #[error("path `{path}` in zone {zone}: {what}")]
    Invalid {
        /// The path's template.
        path: String,
        /// The zone.
        zone: String,
        /// What is wrong.
        what: String,
    },
    /// Folders of all times, or of other spans than BigQuery has.
    #[error(
        "path `{path}`: a folder holds {span}, and BigQuery's partitions are hours or days: write hours (`dt=%Y-%m-%d/hr=%H`) or days (`dt=%Y-%m-%d`)"
    )]
    Span {
        /// The path's template.
        path: String,
        /// What a folder holds.
        span: String,
    },
    /// Folders of hours or days that are not those of UTC.
    #[error(
        "path `{path}` in zone {zone}: the folder of {instant} does not begin and end with {a} of UTC, as BigQuery's partitions do: {advice}"
    )]
    Zone {
        /// The path's template.
        path: String,
        /// The zone.
        zone: String,
        /// An instant of such a folder, in UTC.
        instant: String,
        /// `an hour`, `a day`.
        a: &'static str,
        /// What to write instead.
        advice: &'static str,
    },
    /// The same folder for two times.
    #[error(
        "path `{path}`: {first} and {second} (UTC) have the same folder, which would be two partitions of BigQuery's: show the whole date"
    )]
    Repeats {
        /// The path's template.
        path: String,
        /// An instant, in UTC.
        first: String,
        /// Another.
        second: String,
    },
}

/// What partitions the folders of the template `path` in `zone` are. Every window is looked at that begins or ends near a change of
/// the zone's offset from 2000 to 2100, and one a day elsewhere.
///
/// # Errors
/// [`Misfit`].
pub fn granularity(path: &str, zone: &str) -> Result<Granularity, Misfit> {
    let invalid = |what: String| Misfit::Invalid { path: path.to_string(), zone: zone.to_string(), what };
    let template = Template::parse(path, TemplateKind::Path).map_err(|error| invalid(error.to_string()))?;
    let tz: Tz = zone.parse().map_err(|_| invalid("there is no such zone".to_string()))?;
    let directives: Vec<Directive> = template
        .pieces()
        .filter_map(|piece| if let Piece::Time(directive) = piece { Some(directive.clone()) } else { None })
        .collect();
    let folders = Folders { path, zone, calendar: Calendar::new(tz, directives.iter()), directives };
    let granularity = folders.span()?;
    folders.check_borders(granularity)?;
    folders.check_names(granularity)?;
    Ok(granularity)
}

/// The folders of a layout by their times.
struct Folders<'a> {
    path: &'a str,
    zone: &'a str,
    calendar: Calendar,
    directives: Vec<Directive>,
}

impl Folders<'_> {
    /// The span of an ordinary folder: the shortest of a few days, since no zone changes on all of them.
    fn span(&self) -> Result<Granularity, Misfit> {
        let span = |day: i64| {
            let start_ms = self.calendar.end_of_window(FROM_MS + day * DAY_MS)?;
            Some(self.calendar.end_of_window(start_ms)? - start_ms)
        };
        let mut spans: Vec<i64> = (100..140).step_by(9).filter_map(span).collect();
        spans.sort_unstable();
        match spans.get(spans.len() / 2) {
            Some(&HOUR_MS) => Ok(Granularity::Hour),
            Some(&DAY_MS) => Ok(Granularity::Day),
            found => {
                let span = found.map_or_else(|| "all times".to_string(), |ms| told(*ms));
                Err(Misfit::Span { path: self.path.to_string(), span })
            }
        }
    }

    /// That folders begin and end where partitions do.
    fn check_borders(&self, granularity: Granularity) -> Result<(), Misfit> {
        let span_ms = granularity.ms();
        let mut offset = None;
        for day_ms in (FROM_MS..TO_MS).step_by(DAY_MS as usize) {
            // Days on which nothing changes are alike.
            let now = self.calendar.local(day_ms).format("%z").to_string();
            let is_ordinary = offset.replace(now.clone()).is_some_and(|before| before == now);
            if is_ordinary {
                continue;
            }
            for start_ms in (day_ms - DAY_MS..day_ms + DAY_MS).step_by(span_ms as usize) {
                // The folder of the first and of the last instant of a partition is that one, and it ends there.
                let ends = [start_ms, start_ms + span_ms - 1].map(|ms| self.calendar.end_of_window(ms));
                let before = self.calendar.end_of_window(start_ms - 1);
                if ends != [Some(start_ms + span_ms); 2] || before != Some(start_ms) {
                    return Err(self.misfit(granularity, start_ms));
                }
            }
        }
        Ok(())
    }

    /// That no two partitions have the same folder.
    fn check_names(&self, granularity: Granularity) -> Result<(), Misfit> {
        // A second day and hour, another month, and as many years as a template could count in.
        let hours =
            [0, 1, 12, 13, 24, 7 * 24, 14 * 24, 31 * 24, 59 * 24, 90 * 24, 181 * 24].map(|hours| hours * HOUR_MS);
        let years = [0, 1, 5, 6, 10, 11, 28, 50].map(|years| years * 1_461 * DAY_MS / 4);
        let mut names = BTreeMap::new();
        for ms in years.iter().flat_map(|year_ms| hours.map(|hour_ms| FROM_MS + year_ms + hour_ms)) {
            let start_ms = ms - ms.rem_euclid(granularity.ms());
            if let Some(first_ms) = names.insert(self.name(start_ms), start_ms)
                && first_ms != start_ms
            {
                let [first, second] = [first_ms, start_ms].map(instant);
                return Err(Misfit::Repeats { path: self.path.to_string(), first, second });
            }
        }
        Ok(())
    }

    fn name(&self, ms: i64) -> String {
        let local = self.calendar.local(ms);
        let parts = self.directives.iter().map(|directive| local.format_with_items(directive.items.iter()).to_string());
        parts.collect::<Vec<_>>().join("|")
    }

    fn misfit(&self, granularity: Granularity, start_ms: i64) -> Misfit {
        let (a, advice) = match granularity {
            Granularity::Hour => {
                ("an hour", "use zone UTC, or one that is whole hours from it and never changes, as Asia/Tokyo")
            }
            Granularity::Day => ("a day", "use zone UTC, or folders of hours"),
        };
        let (path, zone) = (self.path.to_string(), self.zone.to_string());
        Misfit::Zone { path, zone, instant: instant(start_ms), a, advice }
    }
}

fn instant(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(|| ms.to_string(), |at| at.format("%Y-%m-%dT%H:%MZ").to_string())
}

fn told(ms: i64) -> String {
    match ms {
        60_000 => "a minute".to_string(),
        _ if ms % DAY_MS == 0 => format!("{} days", ms / DAY_MS),
        _ if ms % 60_000 == 0 => format!("{} minutes", ms / 60_000),
        _ => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS: &str = "{topic}/dt=%Y-%m-%d/hr=%H";
    const DAYS: &str = "{topic}/dt=%Y-%m-%d";

    #[test]
    fn utc_has_bigquerys_hours_and_days() {
        for zone in ["UTC", "Etc/UTC", "Africa/Abidjan", "Atlantic/Reykjavik"] {
            assert_eq!(granularity(HOURS, zone), Ok(Granularity::Hour), "{zone}");
            assert_eq!(granularity(DAYS, zone), Ok(Granularity::Day), "{zone}");
        }
        for path in ["%Y%m%d%H", "y=%Y/d=%j/%I%p", "{field.country}/%Y/%m/%d/%H", "%s-is-no-hour/%Y-%m-%dT%H"] {
            let fits = granularity(path, "UTC");
            assert_eq!(fits.is_ok(), !path.contains("%s"), "{path}: {fits:?}");
        }
    }

    /// Whole hours from UTC for ever: hours are BigQuery's, days are not.
    #[test]
    fn tokyo_has_bigquerys_hours_and_other_days() {
        for zone in ["Asia/Tokyo", "Asia/Dubai", "America/Phoenix", "Etc/GMT+5"] {
            assert_eq!(granularity(HOURS, zone), Ok(Granularity::Hour), "{zone}");
            let wrong = granularity(DAYS, zone).expect_err("other days").to_string();
            assert!(wrong.contains(zone) && wrong.contains("a day of UTC"), "{wrong}");
        }
    }

    /// Half and quarter hours, today or for some years.
    #[test]
    fn hours_that_begin_between_two_of_utc_are_refused() {
        for zone in ["Asia/Kolkata", "Asia/Kathmandu", "Australia/Adelaide", "Australia/Lord_Howe", "America/Caracas"] {
            for path in [HOURS, DAYS] {
                let wrong = granularity(path, zone).expect_err(zone);
                assert!(matches!(wrong, Misfit::Zone { .. }), "{zone}: {wrong}");
            }
        }
    }

    /// Two hours are one folder on the day a clock goes back, unless the folder tells them apart.
    #[test]
    fn a_zone_with_summer_time_needs_its_offset_in_the_path() {
        for zone in ["Europe/Berlin", "America/New_York", "Europe/London", "Africa/Casablanca"] {
            let wrong = granularity(HOURS, zone).expect_err("hours that are two").to_string();
            assert!(wrong.contains("an hour of UTC") && wrong.contains("never changes"), "{wrong}");
            assert_eq!(granularity("%Y-%m-%d/%H%z", zone), Ok(Granularity::Hour), "{zone}");
        }
    }

    #[test]
    fn other_spans_and_none_are_refused() {
        for (path, says) in
            [("%Y-%m-%d/%H/%M", "a minute"), ("%Y-%m", "days"), ("{topic}", "all times"), ("", "all times")]
        {
            let wrong = granularity(path, "UTC").expect_err(path);
            assert!(matches!(&wrong, Misfit::Span { span, .. } if span.contains(says)), "{path}: {wrong}");
        }
    }

    #[test]
    fn a_folder_that_comes_again_is_refused() {
        for path in ["hr=%H", "%m-%d/%H", "%d/%H", "%Y/%H", "%y-%d", "%m-%d", "%Y/%d"] {
            let wrong = granularity(path, "UTC").expect_err(path);
            assert!(matches!(wrong, Misfit::Repeats { .. }), "{path}: {wrong}");
        }
    }

    #[test]
    fn what_is_no_path_or_zone_is_named() {
        for (path, zone) in [("{nothing}", "UTC"), (HOURS, "Mars/Base")] {
            assert!(matches!(granularity(path, zone), Err(Misfit::Invalid { .. })), "{path} {zone}");
        }
    }
}
