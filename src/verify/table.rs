//! The objects that receipts name, in few bytes each, to be crossed off as the listing shows them. Pure.
//!
//! Of an object only 16 bytes of the SHA-256 of its place are kept, with its size, who names it and some marks: 32 bytes. A table
//! takes no more than it was made for. When there are more it gives up the upper half of the digests that it was to hold, as
//! often as needed: these are for a further pass, which reads receipts and listings again.

use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU8, Ordering};

/// The first 16 bytes of the SHA-256 of an object's place. That two places share one is as likely as finding a collision of 128
/// bits: never, among fewer than 2^50 objects.
pub type Digest = u128;

/// The digest of a place. Jobs keep the first half of it, in hex: it stays as it is.
pub fn digest(destination: &str, key: &str) -> Digest {
    let mut hash = Sha256::new();
    hash.update(destination.as_bytes());
    hash.update(b"\n");
    hash.update(key.as_bytes());
    let found: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&found[..16]);
    Digest::from_be_bytes(first)
}

/// It must be there. Without: it may be, as a claim announces it.
const REQUIRED: u8 = 1;
/// The listing shows it.
const SEEN: u8 = 2;
/// … with another size.
const WRONG_SIZE: u8 = 4;
/// Another receipt names it, too.
const DOUBLED: u8 = 8;
/// A compaction replaced it: it must not be there.
const REPLACED: u8 = 16;

/// Who names an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which Kafka partition: a number of the caller's.
    pub partition: u32,
    /// Which replay of the batch; 0: the batch itself.
    pub replay: u32,
    /// Which compaction, a number of the caller's from 1; 0: none.
    pub compaction: u32,
    /// First offset of the batch.
    pub first: i64,
}

#[derive(Debug)]
struct Entry {
    digest: Digest,
    bytes: u64,
    owner: u32,
    marks: AtomicU8,
}

/// What the listing's object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Somebody names it.
    Named,
    /// Nobody does.
    Unnamed,
    /// Another pass decides.
    OtherPass,
}

/// What became of an object that a receipt names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks(u8);

impl Marks {
    /// The listing does not show it.
    pub fn is_missing(self) -> bool {
        self.0 & (REQUIRED | SEEN) == REQUIRED
    }

    /// The listing shows it with another size.
    pub fn has_wrong_size(self) -> bool {
        self.0 & (REQUIRED | WRONG_SIZE) == REQUIRED | WRONG_SIZE
    }

    /// Another receipt names it, too, and comes before this one.
    pub fn is_doubled(self) -> bool {
        self.0 & DOUBLED != 0
    }

    /// The listing shows it, and it was replaced.
    pub fn is_returned(self) -> bool {
        self.0 & (REQUIRED | REPLACED | SEEN) == REPLACED | SEEN
    }

    fn is_fault(self) -> bool {
        self.is_missing() || self.has_wrong_size() || self.is_doubled() || self.is_returned()
    }
}

/// Being filled. See the module.
#[derive(Debug)]
pub struct Filling {
    entries: Vec<Entry>,
    /// No more than entries.
    owners: Vec<Owner>,
    entries_max: usize,
    first: Digest,
    last: Digest,
}

impl Filling {
    /// For digests from `first` on, at most `entries_max` of them (at least 1). Memory is used as it fills.
    pub fn new(first: Digest, entries_max: usize) -> Self {
        let entries_max = entries_max.max(1);
        Self { entries: Vec::with_capacity(entries_max), owners: Vec::new(), entries_max, first, last: Digest::MAX }
    }

    /// Whether an object with that digest is of this pass.
    pub fn takes(&self, digest: Digest) -> bool {
        self.first <= digest && digest <= self.last
    }

    /// Adds an object of `bytes` bytes that `owner` names, if it is of this pass. `required`: it must be there. What one owner names
    /// is added one after the other.
    pub fn add(&mut self, digest: Digest, bytes: u64, owner: Owner, required: bool) {
        self.insert(digest, bytes, owner, if required { REQUIRED } else { 0 });
    }

    /// Adds an object that `owner`, a compaction, replaced.
    pub fn add_replaced(&mut self, digest: Digest, bytes: u64, owner: Owner) {
        self.insert(digest, bytes, owner, REPLACED);
    }

    fn insert(&mut self, digest: Digest, bytes: u64, owner: Owner, marks: u8) {
        while self.takes(digest) && self.entries.len() >= self.entries_max && self.first < self.last {
            self.halve();
        }
        if !self.takes(digest) {
            return;
        }
        if self.owners.last() != Some(&owner) {
            self.owners.push(owner);
        }
        let marks = AtomicU8::new(marks);
        self.entries.push(Entry { digest, bytes, owner: number(self.owners.len() - 1), marks });
    }

    /// Gives up the upper half of the digests.
    fn halve(&mut self) {
        self.last = self.first + (self.last - self.first) / 2;
        let last = self.last;
        self.entries.retain(|entry| entry.digest <= last);
        // Entries lie in the order of their owners.
        let mut kept = 0;
        for run in self.entries.chunk_by_mut(|one, other| one.owner == other.owner) {
            self.owners[kept] = self.owners[run[0].owner as usize];
            run.iter_mut().for_each(|entry| entry.owner = number(kept));
            kept += 1;
        }
        self.owners.truncate(kept);
    }

    /// Ready to be crossed off.
    pub fn seal(mut self) -> Table {
        self.entries.sort_unstable_by_key(|entry| (entry.digest, entry.owner));
        for run in self.entries.chunk_by(|one, other| one.digest == other.digest) {
            let mut required = run.iter().filter(|entry| entry.marks.load(Ordering::Relaxed) & REQUIRED != 0);
            required.next();
            for again in required {
                again.marks.fetch_or(DOUBLED, Ordering::Relaxed);
            }
        }
        Table { entries: self.entries, owners: self.owners, first: self.first, last: self.last }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a table has far fewer entries")
}

/// Complete, and shared by those who list. See the module.
#[derive(Debug)]
pub struct Table {
    entries: Vec<Entry>,
    owners: Vec<Owner>,
    first: Digest,
    last: Digest,
}

impl Table {
    /// Where the next pass begins; `None`: this was the last one.
    pub fn next_pass(&self) -> Option<Digest> {
        self.last.checked_add(1)
    }

    /// Whether an object with that digest is of this pass.
    pub fn takes(&self, digest: Digest) -> bool {
        self.first <= digest && digest <= self.last
    }

    fn run(&self, digest: Digest) -> &[Entry] {
        let begin = self.entries.partition_point(|entry| entry.digest < digest);
        let count = self.entries[begin..].iter().take_while(|entry| entry.digest == digest).count();
        &self.entries[begin..begin + count]
    }

    /// The listing shows an object of `bytes` bytes.
    pub fn cross_off(&self, digest: Digest, bytes: u64) -> Seen {
        if !self.takes(digest) {
            return Seen::OtherPass;
        }
        let run = self.run(digest);
        for entry in run {
            let marks = if entry.bytes == bytes { SEEN } else { SEEN | WRONG_SIZE };
            entry.marks.fetch_or(marks, Ordering::Relaxed);
        }
        if run.is_empty() { Seen::Unnamed } else { Seen::Named }
    }

    /// What became of the object that `owner`, one of [`Table::faulty_owners`], names.
    pub fn marks(&self, digest: Digest, owner: u32) -> Option<Marks> {
        let of_owner = || self.run(digest).iter().filter(|entry| entry.owner == owner);
        let required = |entry: &&Entry| entry.marks.load(Ordering::Relaxed) & REQUIRED != 0;
        // A claim may have announced it, too.
        let entry = of_owner().rfind(required).or_else(|| of_owner().next_back())?;
        Some(Marks(entry.marks.load(Ordering::Relaxed)))
    }

    /// Who is the first that names that object.
    pub fn first_owner(&self, digest: Digest) -> Option<Owner> {
        let required = |entry: &&Entry| entry.marks.load(Ordering::Relaxed) & REQUIRED != 0;
        self.run(digest).iter().find(required).map(|entry| self.owners[entry.owner as usize])
    }

    /// Who names an object that is missing, of another size or named twice. Sorted, each once.
    pub fn faulty_owners(&self) -> Vec<u32> {
        let faulty = self.entries.iter().filter(|entry| Marks(entry.marks.load(Ordering::Relaxed)).is_fault());
        let mut owners: Vec<u32> = faulty.map(|entry| entry.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// Who that is.
    pub fn owner(&self, number: u32) -> Owner {
        self.owners[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn an_entry_is_small_and_places_differ() {
        assert_eq!(size_of::<Entry>(), 32);
        assert_ne!(digest("a", "b/c"), digest("a/b", "c"));
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
    }

    fn owner(first: i64) -> Owner {
        Owner { partition: 0, replay: 0, compaction: 0, first }
    }

    /// What is wrong, by kind: object and owner.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Wrong {
        missing: BTreeSet<(u64, i64)>,
        sizes: BTreeSet<(u64, i64)>,
        doubled: BTreeSet<(u64, i64)>,
        unnamed: BTreeSet<u64>,
    }

    fn place(object: u64) -> Digest {
        digest("d", &object.to_string())
    }

    /// Everything that all passes find, with room for `room` objects.
    fn find(named: &[(u64, u64, i64, bool)], listed: &BTreeMap<u64, u64>, room: usize) -> Wrong {
        let (mut from, mut wrong) = (Some(0), Wrong::default());
        while let Some(first) = from {
            let mut filling = Filling::new(first, room);
            for &(object, bytes, by, required) in named {
                filling.add(place(object), bytes, owner(by), required);
                assert!(filling.entries.len() <= room && filling.owners.len() <= room);
            }
            let table = filling.seal();
            for (&object, &bytes) in listed {
                if table.cross_off(place(object), bytes) == Seen::Unnamed {
                    assert!(wrong.unnamed.insert(object), "{object} is told by two passes");
                }
            }
            for number in table.faulty_owners() {
                let by = table.owner(number).first;
                for &(object, ..) in named.iter().filter(|named| named.2 == by) {
                    let Some(marks) = table.marks(place(object), number) else { continue };
                    if marks.is_missing() {
                        wrong.missing.insert((object, by));
                    }
                    if marks.has_wrong_size() {
                        wrong.sizes.insert((object, by));
                    }
                    if marks.is_doubled() {
                        wrong.doubled.insert((object, by));
                    }
                }
            }
            from = table.next_pass();
        }
        wrong
    }

    proptest! {
        /// Goal: over all passes, exactly what is missing, of another size, named twice or unnamed comes out, whatever the room.
        #[test]
        fn every_object_is_decided_once(
            objects in prop::collection::btree_map((0..40_u64, 0..9_i64), (1..4_u64, any::<bool>()), 0..60),
            listed in prop::collection::btree_map(0..50_u64, 1..4_u64, 0..50),
            room in 9..40_usize,
        ) {
            // Owners come one after the other.
            let mut named: Vec<(u64, u64, i64, bool)> =
                objects.iter().map(|(&(object, by), &(bytes, required))| (object, bytes, by, required)).collect();
            named.sort_by_key(|named| named.2);
            let mut expected = Wrong::default();
            for &(object, bytes, by, _) in named.iter().filter(|named| named.3) {
                match listed.get(&object) {
                    None => drop(expected.missing.insert((object, by))),
                    Some(&found) if found != bytes => drop(expected.sizes.insert((object, by))),
                    Some(_) => {}
                }
                if named.iter().any(|other| other.3 && other.0 == object && other.2 < by) {
                    expected.doubled.insert((object, by));
                }
            }
            let is_named = |object: u64| named.iter().any(|named| named.0 == object);
            expected.unnamed = listed.keys().copied().filter(|&object| !is_named(object)).collect();
            prop_assert_eq!(find(&named, &listed, room), expected);
        }
    }

    #[test]
    fn what_was_replaced_is_a_fault_only_where_it_is_there() {
        let by = Owner { compaction: 1, ..owner(0) };
        for (listed, expected) in [(true, vec![by]), (false, vec![])] {
            let mut filling = Filling::new(0, 10);
            filling.add_replaced(digest("d", "k"), 5, by);
            let table = filling.seal();
            if listed {
                assert_eq!(table.cross_off(digest("d", "k"), 5), Seen::Named);
            }
            let owners: Vec<Owner> = table.faulty_owners().into_iter().map(|number| table.owner(number)).collect();
            assert_eq!(owners, expected);
            let marks = table.marks(digest("d", "k"), 0).expect("an entry");
            assert_eq!((marks.is_returned(), marks.is_missing()), (listed, false));
        }
    }

    /// Goal: a receipt that comes behind the claim that announced its objects makes them such as must be there.
    #[test]
    fn what_was_announced_and_then_named_must_be_there() {
        for listed in [None, Some(5), Some(6)] {
            let mut filling = Filling::new(0, 10);
            filling.add(digest("d", "k"), 0, owner(1), false);
            filling.add(digest("d", "k"), 5, owner(1), true);
            let table = filling.seal();
            listed.iter().for_each(|&bytes| assert_eq!(table.cross_off(digest("d", "k"), bytes), Seen::Named));
            assert_eq!(table.faulty_owners().len(), usize::from(listed != Some(5)));
            let marks = table.marks(digest("d", "k"), 0).expect("an entry");
            assert_eq!((marks.is_missing(), marks.has_wrong_size()), (listed.is_none(), listed == Some(6)));
            assert!(!marks.is_doubled());
        }
    }

    #[test]
    fn one_object_named_twice_is_told_at_the_second() {
        let mut filling = Filling::new(0, 10);
        for (by, required) in [(1, false), (2, true), (4, true)] {
            filling.add(digest("d", "k"), 5, owner(by), required);
        }
        let table = filling.seal();
        assert_eq!(table.cross_off(digest("d", "k"), 5), Seen::Named);
        let faulty: Vec<_> = table.faulty_owners().into_iter().map(|number| table.owner(number).first).collect();
        assert_eq!((table.first_owner(digest("d", "k")), faulty), (Some(owner(2)), vec![4]));
    }
}
