//! Payloads in Confluent's wire format: the id of a schema, then data of that schema.
//!
//! Where an output takes its columns from the registry, all rows of a batch are projected onto one schema, the batch's target:
//!
//! | the record's schema | what becomes of it |
//! |---|---|
//! | the target | read as it is |
//! | one whose columns an output cannot hold | a dead letter |
//! | a newer one that reads the target | the batch ends before it, and it is the next target |
//! | a newer one that does not | a dead letter |
//! | another one that the target reads | projected: fields by name, the target's defaults for what was not there |
//! | any other | a dead letter |
//!
//! Avro is projected by its schema resolution, aliases included; Protocol Buffers by the numbers of fields; JSON stays as it is.
//! Without such an output each record is read by its own schema and no batch ends because of one.

use super::avro::Avro;
use super::protobuf::Protobuf;
use super::{DecodeError, Decoder, Rows, one_json};
use crate::format;
use crate::layout::{Column, Layout, OutputLayout, RegistryFormat, SchemaSource};
use crate::record::Record;
use crate::registry::{
    HEADER_BYTES, Lookup, Message, Registry, Resolution, Schema, Shape, TARGET_BYTES_MAX, Target, schema_id,
};
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

/// Most readers that are kept: what begins like the wire format by chance can name any message.
const READERS_MAX: usize = 10_000;

/// What a layout that reads by a registry needs beside itself.
#[derive(Clone)]
pub struct Schemas {
    /// The registry. Needed by [`crate::layout::Decode::Registry`] alone.
    pub registry: Option<Arc<Registry>>,
    /// What rows are projected onto.
    pub aim: Aim,
    /// The ids that are unknown, whatever the registry says now; `None`: it decides.
    pub settled: Option<BTreeSet<u32>>,
    /// Which records give rows is decided: neither versions nor the ids that are given up since change it.
    pub by_ids_alone: bool,
    /// Says why the outputs cannot have certain columns, if they cannot.
    pub fits: Fits,
}

/// See [`Schemas::fits`].
pub type Fits = Arc<dyn Fn(&[Column]) -> Result<(), String> + Send + Sync>;

impl Default for Schemas {
    fn default() -> Self {
        Self { registry: None, aim: Aim::Own, settled: None, by_ids_alone: false, fits: Arc::new(|_| Ok(())) }
    }
}

impl Schemas {
    /// What `layout` needs before anything is decided for a batch.
    pub fn of(layout: &Layout, registry: Option<&Arc<Registry>>, settled: Option<BTreeSet<u32>>) -> Self {
        let aim = if layout.needs_target() { Aim::Open } else { Aim::Own };
        let outputs: Vec<OutputLayout> = layout
            .outputs
            .iter()
            .filter(|output| output.format.schema() == Some(&SchemaSource::Registry))
            .cloned()
            .collect();
        let fits = move |columns: &[Column]| {
            outputs.iter().try_for_each(|output| {
                let built = format::build(&output.format, output.keep.as_ref(), Some(columns));
                built.map(drop).map_err(|problem| format!("output {}: {problem}", output.name))
            })
        };
        Self { registry: registry.cloned(), aim, settled, by_ids_alone: false, fits: Arc::new(fits) }
    }
}

/// What rows are projected onto.
#[derive(Clone, Default)]
pub enum Aim {
    /// Nothing: each record is read by its own schema.
    #[default]
    Own,
    /// That is not decided yet.
    Open,
    /// This schema.
    At(Target, Arc<Schema>),
}

/// What must happen before a payload is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// There is no schema of that id, or none that counts, which is to be kept with the batch.
    Note(u32),
    /// The same of a schema that is there, but cannot be read as the batch's target.
    Stray(u32),
    /// The registry must be asked for that id.
    Ask(u32),
    /// It is of that schema, which the rows of its batch must be projected onto: another one than they are now.
    Target(Target),
}

/// Reads payloads by the schemas that they name.
pub struct ByRegistry {
    registry: Arc<Registry>,
    format: RegistryFormat,
    ignores_unknown: bool,
    aim: Aim,
    settled: Option<BTreeSet<u32>>,
    by_ids_alone: bool,
    fits: Fits,
    /// By what a payload begins with.
    readers: RwLock<HashMap<Box<[u8]>, Arc<Reader>>>,
}

/// How payloads that begin alike are read.
struct Reader {
    /// The schema they are of, where it can be used.
    target: Option<Target>,
    /// They are of a schema that is newer than the batch's target, and reads it.
    is_news: bool,
    /// They are of a schema that has the higher version and the lower id, and does not read the batch's target. Rows must not
    /// depend on versions, which may change: a batch notes such ids as it does unknown ones.
    is_stray: bool,
    decoder: Result<Box<dyn Decoder>, DecodeError>,
}

impl Reader {
    fn refusing(problem: String) -> Self {
        Self { target: None, is_news: false, is_stray: false, decoder: Err(DecodeError(problem)) }
    }
}

impl ByRegistry {
    pub(super) fn new(format: RegistryFormat, ignores_unknown: bool, schemas: &Schemas) -> Result<Self, String> {
        let registry = schemas.registry.clone();
        Ok(Self {
            registry: registry.ok_or("the payloads name schemas of a registry, but there is no section [registry]")?,
            format,
            ignores_unknown,
            aim: schemas.aim.clone(),
            settled: schemas.settled.clone(),
            by_ids_alone: schemas.by_ids_alone,
            fits: schemas.fits.clone(),
            readers: RwLock::default(),
        })
    }

    /// The ids that are unknown, where that is decided.
    pub fn settled(&self) -> Option<&BTreeSet<u32>> {
        self.settled.as_ref()
    }

    /// What the data is.
    pub fn format(&self) -> RegistryFormat {
        self.format
    }

    /// What must happen before `payload` is read.
    pub fn needs(&self, payload: &[u8]) -> Needs {
        let Some(id) = schema_id(payload) else { return Needs::Nothing };
        if self.is_settled(id) {
            return Needs::Note(id);
        }
        match self.registry.answer(id, self.format) {
            Lookup::NotAsked => return Needs::Ask(id),
            // What was known when the batch was cut is unknown now: it decides nothing.
            Lookup::Unknown if self.settled.is_some() => return Needs::Ask(id),
            Lookup::Unknown => return Needs::Note(id),
            Lookup::Known(_) if matches!(self.aim, Aim::Own) => return Needs::Nothing,
            Lookup::Known(_) => {}
        }
        match self.reader(payload) {
            Ok((reader, _)) if reader.is_stray => Needs::Stray(id),
            Ok((reader, _)) if reader.is_news => reader.target.clone().map_or(Needs::Nothing, Needs::Target),
            _ => Needs::Nothing,
        }
    }

    /// Why payloads that name `id` give no rows where the batch has noted it: the same text whatever made it do so, as its claim
    /// does not tell.
    pub fn unknown(&self, id: u32) -> DecodeError {
        let or_else = match self.aim {
            Aim::Own => "",
            Aim::Open | Aim::At(..) => ", or one that is newer than the schema of its batch and does not read it",
        };
        DecodeError(format!("the schema registry has no schema {id}{or_else}"))
    }

    /// Whether `id` counts as unknown, whatever the registry says.
    fn is_settled(&self, id: u32) -> bool {
        let is_given_up = || !self.by_ids_alone && self.registry.is_given_up(id);
        self.settled.as_ref().map_or_else(is_given_up, |unknown| unknown.contains(&id))
    }

    /// The reader of `payload`, and the bytes before its data.
    fn reader(&self, payload: &[u8]) -> Result<(Arc<Reader>, usize), DecodeError> {
        let id = schema_id(payload).ok_or_else(|| {
            DecodeError("the payload does not begin with a zero byte and the id of a schema".to_string())
        })?;
        if self.is_settled(id) {
            return Err(self.unknown(id));
        }
        // What has just become too old to be told again was unknown when the record was let in.
        let Lookup::Known(schema) = self.registry.answer(id, self.format) else { return Err(self.unknown(id)) };
        let (message, header) = match schema.shape() {
            Ok(Shape::Protobuf(file)) => {
                let (message, indexes) = Message::of_payload(file, &payload[HEADER_BYTES..]).map_err(DecodeError)?;
                (Some(message), HEADER_BYTES + indexes)
            }
            _ => (None, HEADER_BYTES),
        };
        let begin = &payload[..header];
        if let Some(known) = self.readers.read().unwrap_or_else(PoisonError::into_inner).get(begin) {
            return Ok((known.clone(), header));
        }
        let compiled = catch_unwind(AssertUnwindSafe(|| self.compile(&schema, message)));
        let reader = Arc::new(compiled.unwrap_or_else(|_| {
            Reader::refusing(format!("schema {id} cannot be used: a panic, which is a bug; please report it"))
        }));
        let mut readers = self.readers.write().unwrap_or_else(PoisonError::into_inner);
        if readers.len() >= READERS_MAX {
            readers.clear();
        }
        readers.insert(begin.into(), reader.clone());
        Ok((reader, header))
    }

    fn compile(&self, schema: &Arc<Schema>, message: Option<Message>) -> Reader {
        let name = message.as_ref().map(|message| message.0.full_name().to_string());
        let target = Target { id: schema.id, message: name };
        let usable = |problem: String| format!("schema {target} cannot be used: {problem}");
        let own = match self.own(schema, message.as_ref()) {
            Ok(own) => own,
            Err(problem) => return Reader::refusing(problem),
        };
        // What the outputs cannot hold is refused whatever the target is, or a batch that got its target late would be redone
        // otherwise; and what is in such a schema alone would be lost without a word.
        if !matches!(self.aim, Aim::Own)
            && let Err(problem) = self.holds(schema, &target)
        {
            return Reader::refusing(usable(problem));
        }
        match &self.aim {
            Aim::Own => Reader { target: None, is_news: false, is_stray: false, decoder: Ok(own) },
            // A batch that was planned before there was a target, and is redone, has no rows.
            Aim::Open => {
                let problem = "its batch was planned before any schema was known".to_string();
                Reader { target: Some(target), is_news: true, ..Reader::refusing(problem) }
            }
            Aim::At(aim, _) if *aim == target => {
                Reader { target: Some(target), is_news: false, is_stray: false, decoder: Ok(own) }
            }
            Aim::At(aim, of) => {
                let (reads, is_newer) = (schema.reads(&target, of, aim), schema.is_newer_than(of));
                // Rows depend on ids, which never change, and on what the batch notes; versions say where a batch ends.
                if let Err(problem) = &reads {
                    let problem = format!("schema {target} is newer than schema {aim} and does not read it: {problem}");
                    if schema.id > of.id {
                        return Reader::refusing(problem);
                    }
                    if is_newer && self.settled.is_none() && !self.by_ids_alone {
                        tracing::warn!("{problem}; its records are dead letters");
                        return Reader { is_stray: true, ..Reader::refusing(self.unknown(schema.id).0) };
                    }
                }
                let is_news = is_newer && reads.is_ok();
                let decoder = projected(aim, of, schema, own, &target);
                Reader { target: Some(target), is_news, is_stray: false, decoder }
            }
        }
    }

    /// Whether the outputs can hold rows of `target`, which is of `schema`.
    fn holds(&self, schema: &Schema, target: &Target) -> Result<(), String> {
        if target.to_string().len() > TARGET_BYTES_MAX {
            return Err("its name is too long".to_string());
        }
        (self.fits)(&schema.columns(target)?)
    }

    /// Reads data by its own schema.
    fn own(&self, schema: &Schema, message: Option<&Message>) -> Result<Box<dyn Decoder>, String> {
        let usable = |problem: String| format!("schema {} cannot be used: {problem}", schema.id);
        Ok(match (schema.shape()?, message) {
            (Shape::Avro(avro), _) => Box::new(Avro::new(&avro.to_string()).map_err(usable)?),
            (Shape::Protobuf(_), Some(message)) => {
                Box::new(Protobuf::of(message.0.clone(), self.ignores_unknown).map_err(usable)?)
            }
            (Shape::Protobuf(_), None) => return Err(usable("no message is named".to_string())),
            (Shape::Json(_), _) => one_json(),
        })
    }
}

/// Reads data of `schema`, which `own` reads by itself, as rows of `aim`, which is of `of`.
fn projected(
    aim: &Target,
    of: &Schema,
    schema: &Schema,
    own: Box<dyn Decoder>,
    target: &Target,
) -> Result<Box<dyn Decoder>, DecodeError> {
    let project = || -> Result<Box<dyn Decoder>, String> {
        Ok(match (of.shape()?, schema.shape()?) {
            (Shape::Avro(reader), Shape::Avro(_)) => {
                let resolution = of.resolution(schema)?;
                Box::new(Resolved { own, resolution, whole: Avro::new(&reader.to_string())? })
            }
            (Shape::Protobuf(file), _) => {
                of.reads(aim, schema, target)?;
                let whole = Protobuf::of(Message::of_target(file, aim)?.0, true)?;
                Box::new(Both { own, whole: Box::new(whole) })
            }
            _ => {
                of.reads(aim, schema, target)?;
                own
            }
        })
    };
    project().map_err(|problem| {
        DecodeError(format!("schema {target} does not fit schema {aim}, which the rows are projected onto: {problem}"))
    })
}

impl Decoder for Arc<ByRegistry> {
    fn decode(&self, record: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        let (reader, header) = self.reader(payload)?;
        let decoder = reader.decoder.as_ref().map_err(DecodeError::clone)?;
        decoder.decode(record, &payload[header..], rows)
    }
}

/// Data that is whole by its own schema, read by another one.
struct Both {
    own: Box<dyn Decoder>,
    whole: Box<dyn Decoder>,
}

impl Decoder for Both {
    fn decode(&self, record: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        self.own.decode(record, payload, &mut Rows::default())?;
        self.whole.decode(record, payload, rows)
    }
}

/// Avro of one schema as another one.
struct Resolved {
    /// Proves that a payload is whole, and its counts bounded, before `resolution` copies from it.
    own: Box<dyn Decoder>,
    resolution: Resolution,
    whole: Avro,
}

impl Decoder for Resolved {
    fn decode(&self, record: &Record<'_>, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeError> {
        self.own.decode(record, payload, &mut Rows::default())?;
        let projected = self.resolution.apply(payload);
        let projected = projected.map_err(|error| DecodeError(format!("the payload cannot be projected: {error}")))?;
        self.whole.decode_of(payload.len(), &projected, rows)
    }
}

#[cfg(test)]
mod tests;
