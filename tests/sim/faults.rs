//! What has gone wrong, counted by what it was and what it hit, and whether it is as much as is demanded: a simulation that
//! no longer provoked something would go on to pass.

use crate::demands::{ANY, Demanded};
use std::collections::BTreeMap;

/// Counts of what has gone wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(BTreeMap<(&'static str, &'static str), u64>);

impl Faults {
    pub(crate) fn add(&mut self, what: &'static str, with: &'static str) {
        *self.0.entry((what, with)).or_insert(0) += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(fault, count)| *self.0.entry(*fault).or_insert(0) += count);
    }

    /// One line a fault, with what it hit.
    pub(crate) fn print(&self) {
        let mut last = "";
        let mut line = String::new();
        for ((what, with), count) in &self.0 {
            if *what != last {
                println!("{line}");
                (last, line) = (what, format!("  {what}:"));
            }
            line += &format!(" {with}{}{count}", if with.is_empty() { "" } else { " " });
            line.push(';');
        }
        println!("{line}");
    }

    fn count(&self, what: &str, with: &str) -> u64 {
        let counted = self.0.iter().filter(|((of, hit), _)| *of == what && (with == ANY || *hit == with));
        counted.map(|(_, count)| count).sum()
    }

    /// What is demanded of that many seeds and was not there.
    pub(crate) fn missing(&self, demanded: &[Demanded], seeds: u64) -> Vec<String> {
        let wanted = demanded.iter().map(|(what, with, least)| (what, with, (least * seeds / 1_000).max(1)));
        let missing = wanted.filter(|(what, with, least)| self.count(what, with) < *least);
        missing.map(|(what, with, least)| format!("{what} {with}: {} of {least}", self.count(what, with))).collect()
    }
}
