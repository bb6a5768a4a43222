//! Which record of a transaction a broker refuses. It refuses whole batches, and its answer names no record, so transactions are made smaller until
//! one holds that record alone.
//!
//! Each transaction that is refused is tried again as halves, so a record is found after at most 15 that are aborted
//! (`log2` of [`super::produce::RECORDS_MAX`]) and as many that are committed; all before it is committed by then.

/// How many records the next transaction may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Narrow {
    /// Most records of a transaction, and how many are left among which the refused one is; `None`: nothing is looked for.
    looking: Option<(u64, u64)>,
}

impl Narrow {
    /// Most records of the next transaction; `None`: as many as ever.
    pub fn records_max(&self) -> Option<u64> {
        self.looking.map(|(most, _)| most)
    }

    /// A transaction of `records`, more than one, was refused.
    pub fn refused(&mut self, records: u64) {
        self.looking = Some(((records / 2).max(1), records));
    }

    /// A transaction of `records` was committed.
    pub fn committed(&mut self, records: u64) {
        self.looking = self.looking.and_then(|(most, left)| match left.saturating_sub(records) {
            0 => None,
            left => Some((most, left)),
        });
    }

    /// The record is found.
    pub fn found(&mut self) {
        self.looking = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: any record is found, all before it having been committed, in few transactions. Method: each place in transactions of several sizes.
    #[test]
    fn the_refused_record_is_found_behind_all_that_precede_it() {
        for (usual, refused) in
            [(1, 0), (2, 1), (7, 3), (20_000, 0), (20_000, 19_999), (20_000, 12_345), (20_000, 25_000)]
        {
            let (mut narrow, mut committed, mut transactions) = (Narrow::default(), 0_u64, 0);
            loop {
                transactions += 1;
                let records = narrow.records_max().unwrap_or(usual);
                if committed + records <= refused {
                    committed += records;
                    narrow.committed(records);
                } else if records > 1 {
                    narrow.refused(records);
                } else {
                    break;
                }
            }
            assert_eq!(committed, refused);
            assert!(transactions <= 33, "{usual} {refused}: {transactions}");
        }
    }
}
