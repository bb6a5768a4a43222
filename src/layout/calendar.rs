//! When the time parts of a template render differently: granules and the ends of windows, in any zone.
//!
//! # Guarantees
//! - **T-1** All instants of one granule render alike.
//! - **T-2** A window's end is behind every instant of that window which local time reaches without a break: on a
//!   25-hour day the two UTC hours that render alike are one window and end together.

use super::directive::{Directive, Unit};
use chrono::format::Item;
use chrono::{DateTime, Datelike, Months, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;

/// First instant that is rendered as it is, 0001-01-03T00:00:00Z; earlier ones render like it.
pub const EVENT_MS_MIN: i64 = -62_135_424_000_000;
/// Last instant that is rendered as it is, 9999-12-29T00:00:00Z: in every zone the year has four digits.
pub const EVENT_MS_MAX: i64 = 253_402_041_600_000;

/// 1973-01-01T00:00:00Z: from here on every zone's offset and every change of it is in whole minutes.
const WHOLE_MINUTES_FROM_MS: i64 = 94_694_400_000;

/// Steps that may pass before a directive changes: the days of an ISO year (`%G`), the years of a century (`%C`).
const STEPS_MAX: usize = 400;

/// How far a change of the UTC offset is looked for.
const OFFSET_SEARCH_MS: i64 = 400 * 86_400_000;

/// The time parts of one template.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: Tz,
    /// Finest step of the directives that show local time; `None` where there is none.
    unit: Option<Unit>,
    shows_offset: bool,
    /// What shows local time, with separators: two local times with equal renderings are one window.
    local_items: Vec<Item<'static>>,
}

impl Calendar {
    /// The calendar of a template with these directives.
    pub fn new<'d>(zone: Tz, directives: impl Iterator<Item = &'d Directive>) -> Self {
        let mut calendar = Self { zone, unit: None, shows_offset: false, local_items: Vec::new() };
        for directive in directives {
            calendar.shows_offset |= directive.shows_offset;
            if let Some(unit) = directive.unit {
                calendar.unit = Some(calendar.unit.map_or(unit, |finest| finest.min(unit)));
                calendar.local_items.extend(directive.items.iter().cloned());
                calendar.local_items.push(Item::Literal("|"));
            }
        }
        calendar
    }

    /// Whether time is rendered at all.
    pub fn shows_time(&self) -> bool {
        self.unit.is_some() || self.shows_offset
    }

    /// `event_ms` as local time. Instants before [`EVENT_MS_MIN`] and after [`EVENT_MS_MAX`] are moved there.
    pub fn local(&self, event_ms: i64) -> DateTime<Tz> {
        let clamped = event_ms.clamp(EVENT_MS_MIN, EVENT_MS_MAX);
        let utc = DateTime::from_timestamp_millis(clamped).expect("years 1 to 9999 are within chrono's range");
        self.zone.from_utc_datetime(&utc.naive_utc())
    }

    /// The first instant of the granule that holds `event_ms`: instants of one granule render alike. A minute from
    /// 1973 on, a second before, or less where the template shows less. 0 where no time is shown.
    pub fn granule(&self, event_ms: i64) -> i64 {
        if !self.shows_time() {
            return 0;
        }
        let span_ms = match self.unit {
            Some(Unit::Millisecond) => 1,
            Some(Unit::Second) => 1_000,
            _ if event_ms < WHOLE_MINUTES_FROM_MS => 1_000,
            _ => 60_000,
        };
        // The very first granule may start before the first number.
        event_ms.checked_sub(event_ms.rem_euclid(span_ms)).unwrap_or(i64::MIN)
    }

    /// The first instant behind the window that holds `event_ms`. `None` where no time is shown, or never (beyond
    /// the year 9999).
    pub fn end_of_window(&self, event_ms: i64) -> Option<i64> {
        if event_ms > EVENT_MS_MAX {
            return None;
        }
        let start = self.local(event_ms);
        let local_end = self.local_end(start.naive_local());
        if self.shows_offset {
            return self.end_with_offset(&start, local_end);
        }
        Some(self.last_instant_before(start.timestamp_millis(), local_end?))
    }

    /// Whether windows come back within some years: what is rendered of a time is rendered of a later window, too, as by `%H` without a day.
    pub fn comes_back(&self) -> bool {
        const HOUR: i64 = 3_600;
        const AFTER_HOURS: [i64; 6] = [1, 12, 24, 7 * 24, 31 * 24, 365 * 24];
        let start = DateTime::UNIX_EPOCH.naive_utc() + TimeDelta::seconds(20_103 * 24 * HOUR + 3 * HOUR + HOUR / 2);
        let render = |local: NaiveDateTime| local.format_with_items(self.local_items.iter()).to_string();
        let Some(end) = self.local_end(start) else { return false };
        let comes_back = |hours: &i64| {
            let later = start + TimeDelta::seconds(hours * HOUR);
            later >= end && render(later) == render(start)
        };
        AFTER_HOURS.iter().any(comes_back)
    }

    /// The first local time behind `start` that renders differently.
    fn local_end(&self, start: NaiveDateTime) -> Option<NaiveDateTime> {
        let unit = self.unit?;
        let render = |local: NaiveDateTime| local.format_with_items(self.local_items.iter()).to_string();
        let rendered = render(start);
        let mut border = next_border(start, unit)?;
        for _ in 0..STEPS_MAX {
            if render(border) != rendered {
                return Some(border);
            }
            border = next_border(border, unit)?;
        }
        None
    }

    /// One past the latest instant at which local time is still before `local_end`.
    fn last_instant_before(&self, event_ms: i64, local_end: NaiveDateTime) -> i64 {
        let last = local_end - TimeDelta::milliseconds(1);
        if let Some(instant) = self.zone.from_local_datetime(&last).latest() {
            return instant.timestamp_millis() + 1;
        }
        // Clocks were put forward over the end of the window: it ends where they were.
        let near_ms = last.and_utc().timestamp_millis();
        let (mut before_ms, mut behind_ms) = (event_ms.max(near_ms - 30 * 3_600_000), near_ms + 30 * 3_600_000);
        while behind_ms - before_ms > 1 {
            let middle_ms = before_ms + (behind_ms - before_ms) / 2;
            if self.local(middle_ms).naive_local() < local_end {
                before_ms = middle_ms;
            } else {
                behind_ms = middle_ms;
            }
        }
        behind_ms
    }

    /// The end where the rendering shows the offset: the window also ends when that changes.
    fn end_with_offset(&self, start: &DateTime<Tz>, local_end: Option<NaiveDateTime>) -> Option<i64> {
        let start_ms = start.timestamp_millis();
        let offset_ms = i64::from(start.offset().fix().local_minus_utc()) * 1_000;
        let end_ms = local_end.map(|end| end.and_utc().timestamp_millis() - offset_ms);
        let search_end_ms = end_ms.unwrap_or(start_ms + OFFSET_SEARCH_MS);
        let shown = |ms: i64| {
            let local = self.local(ms);
            (local.offset().fix().local_minus_utc(), local.offset().to_string())
        };
        let at_start = shown(start_ms);
        let mut same_ms = start_ms;
        while same_ms < search_end_ms {
            // No zone changes twice within a few hours.
            let mut other_ms = (same_ms + 4 * 3_600_000).min(search_end_ms);
            if shown(other_ms) == at_start {
                same_ms = other_ms;
                continue;
            }
            while other_ms - same_ms > 1 {
                let middle_ms = same_ms + (other_ms - same_ms) / 2;
                if shown(middle_ms) == at_start {
                    same_ms = middle_ms;
                } else {
                    other_ms = middle_ms;
                }
            }
            return Some(other_ms);
        }
        end_ms
    }
}

/// The first local time behind `local` at which a unit begins.
fn next_border(local: NaiveDateTime, unit: Unit) -> Option<NaiveDateTime> {
    let day = local.date();
    let of_day = |hour, minute, second| day.and_hms_opt(hour, minute, second);
    match unit {
        Unit::Millisecond => local.checked_add_signed(TimeDelta::milliseconds(1)),
        Unit::Second => of_day(local.hour(), local.minute(), local.second())?.checked_add_signed(TimeDelta::seconds(1)),
        Unit::Minute => of_day(local.hour(), local.minute(), 0)?.checked_add_signed(TimeDelta::minutes(1)),
        Unit::Hour => of_day(local.hour(), 0, 0)?.checked_add_signed(TimeDelta::hours(1)),
        Unit::Day => Some(day.succ_opt()?.and_time(NaiveTime::MIN)),
        Unit::Month => Some(day.with_day(1)?.checked_add_months(Months::new(1))?.and_time(NaiveTime::MIN)),
        Unit::Year => {
            Some(day.with_day(1)?.with_month(1)?.checked_add_months(Months::new(12))?.and_time(NaiveTime::MIN))
        }
    }
}
