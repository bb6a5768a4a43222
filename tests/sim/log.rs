//! The simulated log of one Kafka partition: offsets that skip, transactions, retention, compaction.

use siltstone::record::OwnedRecord;

/// What lies at an offset.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Record(OwnedRecord),
    /// A transaction's marker, aborted data, or what compaction has removed: nobody reads it.
    Nothing,
}

/// Records as they were produced, and what is left of them.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Counts how often the topic was made, from 1: the generation that archives it.
    pub(crate) incarnation: u32,
    /// The topic was deleted: what had not been archived by then is gone.
    pub(crate) deleted: bool,
    entries: Vec<Entry>,
    /// First offset still there.
    pub(crate) start: i64,
    /// Next offset that a reader of committed data may reach.
    pub(crate) stable: i64,
    /// Everything that was ever produced and can be read, whatever was removed since: offset and record.
    pub(crate) produced: Vec<(i64, OwnedRecord)>,
    /// Offsets that compaction removed.
    pub(crate) compacted: std::collections::BTreeSet<i64>,
    /// Offsets that compaction or retention removed.
    pub(crate) removed: std::collections::BTreeSet<i64>,
}

impl Log {
    pub(crate) fn new(topic: &str, partition: i32, incarnation: u32) -> Self {
        Self {
            topic: topic.to_string(),
            partition,
            incarnation,
            deleted: false,
            entries: Vec::new(),
            start: 0,
            stable: 0,
            produced: Vec::new(),
            compacted: std::collections::BTreeSet::new(),
            removed: std::collections::BTreeSet::new(),
        }
    }

    /// Next offset that a producer gets.
    pub(crate) fn end(&self) -> i64 {
        self.entries.len() as i64
    }

    /// Appends a record that counts as produced.
    pub(crate) fn produce(&mut self, mut record: OwnedRecord) -> i64 {
        let offset = self.end();
        (record.topic, record.partition, record.offset) = (self.topic.clone(), self.partition, offset);
        self.produced.push((offset, record.clone()));
        self.entries.push(Entry::Record(record));
        offset
    }

    /// Appends an offset that no reader ever sees.
    pub(crate) fn skip(&mut self) {
        self.entries.push(Entry::Nothing);
    }

    /// Everything so far can be read.
    pub(crate) fn stabilise(&mut self) {
        self.stable = self.end();
    }

    /// The topic is deleted.
    pub(crate) fn delete(&mut self) {
        self.deleted = true;
        self.removed.extend(self.produced.iter().map(|(offset, _)| *offset));
        self.compacted.extend(self.produced.iter().map(|(offset, _)| *offset));
    }

    /// Retention removes everything below `start`.
    pub(crate) fn trim(&mut self, start: i64) {
        let start = start.clamp(self.start, self.stable);
        for offset in self.start..start {
            if let Some(Entry::Record(_)) = self.entry(offset) {
                self.removed.insert(offset);
            }
        }
        self.start = start;
    }

    /// Compaction removes one record.
    pub(crate) fn compact(&mut self, offset: i64) -> bool {
        // The last record of a log is never compacted away.
        if offset < self.start || offset + 1 >= self.stable {
            return false;
        }
        match self.entry(offset) {
            Some(Entry::Record(_)) => {
                self.entries[offset as usize] = Entry::Nothing;
                self.compacted.insert(offset);
                self.removed.insert(offset);
                true
            }
            _ => false,
        }
    }

    fn entry(&self, offset: i64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The first readable record at or after `offset`.
    pub(crate) fn next_record(&self, offset: i64) -> Option<&OwnedRecord> {
        (offset.max(self.start)..self.stable).find_map(|offset| match self.entry(offset) {
            Some(Entry::Record(record)) => Some(record),
            _ => None,
        })
    }
}
