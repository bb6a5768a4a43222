//! What can become one object: the live objects of one output and Kafka partition whose names tell the same but for offsets.

use crate::bucket::compactions::{Input, To, UNIT_DIGITS};
use crate::bucket::receipt::{Receipt, ReceiptObject};
use crate::layout::recognise::Recogniser;
use crate::layout::window::KeyTemplate;
use crate::layout::{Layout, OutputFormat, OutputLayout};
use crate::ledger::live::{Compacted, Live};
use crate::pipeline::archive::DEAD_LETTERS;
use crate::record::OffsetRange;
use crate::upload::hex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Range that the names of a unit are compared with.
const NO_RANGE: OffsetRange = OffsetRange { first: 0, end: 0 };

/// An object that may give way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What a receipt will say of it.
    pub input: Input,
    /// The batches whose rows it has.
    pub batches: Vec<(i64, i64)>,
    /// Ids of the destinations that have it.
    pub destinations: Vec<String>,
    /// Fingerprint of the layout that wrote it.
    pub fingerprint: String,
    /// Hash of the pinned schema of its output.
    pub schema: Option<String>,
    /// The schema in the registry that its rows are projected onto.
    pub target: Option<String>,
    /// Records inside.
    pub records: Option<u64>,
    /// Smallest event time inside, milliseconds UTC.
    pub event_min_ms: Option<i64>,
    /// Largest event time inside, milliseconds UTC.
    pub event_max_ms: Option<i64>,
    /// It holds JSON lines.
    pub is_json: bool,
}

/// Objects of one name but for offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Output.
    pub output: String,
    /// Folder.
    pub folder: String,
    /// Its name in the bucket.
    pub id: String,
    /// Its objects, in no order.
    pub candidates: Vec<Candidate>,
}

/// The names and windows of one output of one layout.
#[derive(Clone, Debug)]
pub struct Names {
    /// The output.
    pub output: OutputLayout,
    /// What its names end in.
    pub extension: String,
    /// Reads its names.
    pub recogniser: Recogniser,
    keys: KeyTemplate,
}

impl Names {
    /// Of the output called `name` of `layout`.
    ///
    /// # Errors
    /// It has no such output, or its names cannot be read.
    pub fn of(layout: &Layout, name: &str) -> Result<Self, String> {
        let output = layout.outputs.iter().find(|output| output.name == name);
        let output = output.ok_or_else(|| format!("its layout has no output {name}"))?.clone();
        let extension = output.place.extension(&output.format);
        let recogniser = Recogniser::compile(&output.place, name, &extension, layout.generation);
        let keys = KeyTemplate::compile(&output.place, name, &extension, layout.generation);
        let wrong = |error: crate::layout::template::TemplateError| error.to_string();
        Ok(Self { recogniser: recogniser.map_err(wrong)?, keys: keys.map_err(wrong)?, output, extension })
    }

    /// The first instant behind the window of an object whose greatest event time is `event_max_ms`; behind that time itself where
    /// folders tell none.
    pub fn end_of(&self, event_max_ms: i64) -> i64 {
        self.keys.end_of_window(event_max_ms).unwrap_or(event_max_ms.saturating_add(1))
    }
}

/// Names by fingerprint and output.
pub type KnownNames = BTreeMap<(String, String), Result<Arc<Names>, String>>;

/// Which objects are old enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// Windows end by then, milliseconds UTC.
    pub windows_ms: i64,
    /// Receipts were written by then, milliseconds UTC.
    pub receipts_ms: i64,
}

/// Units being gathered.
#[derive(Debug, Default)]
pub struct Units {
    by_id: BTreeMap<String, Unit>,
    held: usize,
}

impl Units {
    /// Objects gathered so far.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes what was gathered, by output and folder.
    pub fn take(&mut self) -> Vec<Unit> {
        self.held = 0;
        let mut units: Vec<Unit> = std::mem::take(&mut self.by_id).into_values().collect();
        units.sort_by(|one, other| (&one.output, &one.folder, &one.id).cmp(&(&other.output, &other.folder, &other.id)));
        units
    }

    /// Adds the live objects of a batch that are old enough. Gives why others, whose names cannot be read, are left out.
    pub fn add_batch(
        &mut self,
        receipt: &Receipt,
        output: Option<&str>,
        (live, names, age): (&Live, &KnownNames, Age),
    ) -> Option<String> {
        if receipt.written_ms.is_none_or(|written| written > age.receipts_ms) {
            return None;
        }
        let mut trouble = None;
        for objects in same_keys(&receipt.objects) {
            let object = objects[0];
            let is_meant = object.output != DEAD_LETTERS && output.is_none_or(|output| output == object.output);
            let counts = objects.iter().all(|object| !live.is_replaced(&object.destination, &object.key));
            let Some(input) = input(&objects, (receipt.first, receipt.end)).filter(|_| is_meant && counts) else {
                continue;
            };
            let names = match names.get(&(receipt.fingerprint.clone(), object.output.clone())) {
                Some(Ok(names)) => names,
                Some(Err(why)) => {
                    trouble = Some(format!("{}: {why}", object.key));
                    continue;
                }
                None => continue,
            };
            if object.event_max_ms.is_none_or(|last| names.end_of(last) > age.windows_ms) {
                continue;
            }
            let Some(pattern) = names.recogniser.with_range(&object.key, NO_RANGE) else {
                trouble = Some(format!("{} is no name of its layout", object.key));
                continue;
            };
            let candidate = Candidate {
                input,
                batches: vec![(receipt.first, receipt.end)],
                destinations: objects.iter().map(|object| object.destination.clone()).collect(),
                fingerprint: receipt.fingerprint.clone(),
                schema: receipt.schemas.get(&object.output).cloned(),
                target: names.output.format.schema().and(receipt.target.clone()),
                records: object.records,
                event_min_ms: object.event_min_ms,
                event_max_ms: object.event_max_ms,
                is_json: matches!(names.output.format, OutputFormat::Json { .. }),
            };
            self.add(unit_id(&receipt.archive, &object.output, &pattern), &object.output, &object.folder, candidate);
        }
        trouble
    }

    /// Adds an object that an earlier compaction made, unless its format was changed: such a one stays.
    pub fn add_compacted(&mut self, compacted: &Compacted, names: &KnownNames) {
        let Compacted { id, group, objects } = compacted;
        let Some(object) = objects.first() else { return };
        if group.to == Some(To::Parquet) {
            return;
        }
        let names = names.get(&(group.fingerprint.clone(), object.output.clone()));
        let Some(Ok(names)) = names else { return };
        let candidate = Candidate {
            input: Input {
                key: group.key.clone(),
                first: compacted.range().first,
                end: compacted.range().end,
                rows: group.rows,
                bytes: group.bytes,
                sha256: group.sha256.clone(),
            },
            batches: group.batches.clone(),
            destinations: group.destinations.clone(),
            fingerprint: group.fingerprint.clone(),
            schema: group.schema.clone(),
            target: group.target.clone(),
            records: group.records,
            event_min_ms: group.event_min_ms,
            event_max_ms: group.event_max_ms,
            is_json: matches!(names.output.format, OutputFormat::Json { .. }),
        };
        self.add(id.0.clone(), &object.output, &object.folder, candidate);
    }

    fn add(&mut self, id: String, output: &str, folder: &str, candidate: Candidate) {
        let unit = self.by_id.entry(id.clone()).or_insert_with(|| Unit {
            output: output.to_string(),
            folder: folder.to_string(),
            id,
            candidates: Vec::new(),
        });
        unit.candidates.push(candidate);
        self.held += 1;
    }
}

/// The name of a unit: of an output of an archive, and of names that tell `pattern` whatever their offsets.
pub fn unit_id(archive: &str, output: &str, pattern: &str) -> String {
    let mut hash = Sha256::new();
    for part in [archive, output, pattern] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut digits = hex(&hash.finalize());
    digits.truncate(UNIT_DIGITS);
    digits
}

/// The objects of a receipt by key, each with all its destinations.
fn same_keys(objects: &[ReceiptObject]) -> Vec<Vec<&ReceiptObject>> {
    let mut by_key: BTreeMap<&str, Vec<&ReceiptObject>> = BTreeMap::new();
    for object in objects {
        by_key.entry(&object.key).or_default().push(object);
    }
    by_key.into_values().collect()
}

/// What a receipt will say of an object; `None`: it is not the same everywhere, or nobody knows its rows and checksum.
fn input(objects: &[&ReceiptObject], (first, end): (i64, i64)) -> Option<Input> {
    let object = objects[0];
    let is_same = |other: &&ReceiptObject| {
        (other.bytes, &other.sha256, other.rows) == (object.bytes, &object.sha256, object.rows)
            && other.kept.is_none()
            && other.output == object.output
    };
    if !objects.iter().all(is_same) {
        return None;
    }
    let (rows, sha256) = (object.rows?, object.sha256.clone()?);
    Some(Input { key: object.key.clone(), first, end, rows, bytes: object.bytes, sha256 })
}
