//! The only place where the configuration meets the template language of [`crate::layout`].

use super::archive::Placed;
use super::error::Errors;
use super::raw::Field;
use super::{ArchiveConfig, DestinationConfig};
use crate::layout::collide::{self, Claimant, Collision, Spot};
use crate::layout::preset::{self, Preset};
use crate::layout::template::{Piece, Template, TemplateKind};
use crate::layout::{Ending, Place};
use std::collections::BTreeMap;

/// Names of the presets.
pub(super) const PRESETS: &[&str] = &preset::NAMES;

/// The preset that counts where none is named.
pub(super) const DEFAULT_PRESET: &str = "hive";

/// The only preset whose names end in the codec alone.
pub(super) const CODEC_PRESET: &str = "secor";

/// Path template of dead letters; their names are those of the default preset, whatever the outputs have.
pub(super) const DEAD_LETTER_PATH: &str = "_dead/{topic}/dt=%Y-%m-%d";

/// What `{output}` says in the names of dead letters.
pub(super) const DEAD_LETTERS: &str = "dead_letters";

/// The preset of that name.
pub(super) fn preset(name: &str) -> Preset {
    preset::preset(name).unwrap_or(Preset { path: "", name: "", ending: Ending::Whole })
}

/// What dead letters have where nothing is given.
pub(super) fn of_dead_letters() -> Preset {
    Preset { path: DEAD_LETTER_PATH, ..preset(DEFAULT_PRESET) }
}

/// Refuses what is no template, and fields where there are none: `no_fields` says why.
pub(super) fn check_template(text: &str, kind: TemplateKind, no_fields: Option<&str>) -> Result<(), String> {
    let template = Template::parse(text, kind).map_err(|error| error.problem.to_string())?;
    match no_fields {
        Some(why) if template.pieces().any(|piece| matches!(piece, Piece::Field(_) | Piece::FieldWord(..))) => {
            Err(why.to_string())
        }
        _ => Ok(()),
    }
}

/// Reports what could give two parts the same key, each at the output that has it. Looks at every output whose own
/// names are known, whatever else is wrong with the file.
pub(super) fn check_collisions(
    archives: &[Placed<'_>],
    destinations: &BTreeMap<String, DestinationConfig>,
    errors: &Errors,
) {
    let holders: Vec<Holder<'_, '_>> =
        archives.iter().flat_map(|archive| holders(archive, destinations, errors)).collect();
    for holder in holders.iter().filter(|holder| holder.goes_to_hdfs()) {
        if has_colon(&holder.place.path, TemplateKind::Path) || has_colon(&holder.place.name, TemplateKind::Name) {
            holder.field.wrong::<()>(
                "a colon in its path or name, and one of its destinations is HDFS, which takes none there",
                "path and name without colons, and without %T, %R and %:z, which render to some",
            );
        }
    }
    let claimants: Vec<Claimant<'_>> = holders.iter().map(Holder::claimant).collect();
    let Err(collisions) = collide::check(&claimants) else { return };
    for collision in &collisions {
        let (who, others) = match collision {
            Collision::Template { who, .. }
            | Collision::Missing { who, .. }
            | Collision::Undelimited { who, .. }
            | Collision::Generations { who }
            | Collision::ControlFolder { who } => (who, None),
            Collision::Outputs { one, other } | Collision::Archives { one, other } => (other, Some(one)),
        };
        let find = |who: &collide::Who| {
            holders.iter().find(|holder| holder.archive.name == who.archive && holder.output == who.output)
        };
        let Some(holder) = find(who) else { continue };
        let mut problem = collision.to_string();
        if others.and_then(find).is_some_and(|other| holder.lost_its_format(other)) {
            problem
                .push_str("; under preset = \"secor\" names end in the codec alone, so formats do not tell them apart");
        }
        holder.field.wrong::<()>(problem, "paths and names that tell every two batches apart; `siltstone help layout`");
    }
}

/// Whether the template can render to a colon: values never do, they are percent-encoded.
fn has_colon(text: &str, kind: TemplateKind) -> bool {
    Template::parse(text, kind).is_ok_and(|template| {
        template.pieces().any(|piece| match piece {
            Piece::Text(text) => text.contains(':'),
            Piece::Time(directive) => directive.bytes.contains(b':'),
            _ => false,
        })
    })
}

/// What puts objects somewhere: an output, or the dead letters.
struct Holder<'a, 'f> {
    archive: &'a ArchiveConfig,
    output: &'a str,
    place: &'a Place,
    extension: String,
    /// What its names would end in if they had all of it.
    whole: String,
    topic: Option<&'a str>,
    spots: Vec<Spot>,
    /// Where it stands in the file, or what it stands in.
    field: Field<'f>,
}

impl Holder<'_, '_> {
    fn claimant(&self) -> Claimant<'_> {
        Claimant {
            archive: &self.archive.name,
            output: self.output,
            place: self.place,
            extension: &self.extension,
            topic: self.topic,
            generation: self.archive.layout.generation,
            spots: self.spots.clone(),
        }
    }

    fn goes_to_hdfs(&self) -> bool {
        self.spots.iter().any(|spot| spot.store.starts_with("hdfs://"))
    }

    /// Whether the two would differ in their extensions if these were whole.
    fn lost_its_format(&self, other: &Self) -> bool {
        self.extension == other.extension && self.whole != other.whole
    }
}

/// What an output or the dead letters are, and where they stand.
struct Stand<'a, 'f> {
    output: &'a str,
    place: &'a Place,
    /// What its names end in here, and what with all of it.
    extensions: (String, String),
    /// Path of its section, in the file or not.
    at: String,
    field: Field<'f>,
    /// The destinations, where they are known for certain.
    destinations: &'a [String],
}

/// The outputs and dead letters of an archive whose names are known for certain.
fn holders<'a, 'f>(
    archive: &'a Placed<'f>,
    destinations: &BTreeMap<String, DestinationConfig>,
    errors: &Errors,
) -> Vec<Holder<'a, 'f>> {
    let (config, path) = (&archive.config, &archive.field.path);
    if errors.about(&format!("{path}.name")) {
        return Vec::new();
    }
    // Of topics that are wrong nobody can say whether there is only one.
    let topic = if errors.within(&format!("{path}.topics")) { Some("") } else { config.topics.only() };
    let holder = |stand: Stand<'a, 'f>| Holder {
        archive: config,
        output: stand.output,
        place: stand.place,
        extension: stand.extensions.0,
        whole: stand.extensions.1,
        topic,
        spots: spots(stand.destinations, destinations),
        field: stand.field,
    };
    let stands = stands(archive, errors).into_iter();
    stands.filter(|stand| names_are_known(&stand.at, errors)).map(holder).collect()
}

/// Whether nothing is wrong with what decides the names of the section at `at`.
fn names_are_known(at: &str, errors: &Errors) -> bool {
    let deciding = ["name", "layout", "format.type", "format.compression", "format.newlines", "path", "zone"];
    !errors.about(at)
        && !errors.about(&format!("{at}.format"))
        && !deciding.iter().any(|key| errors.within(&format!("{at}.{key}")))
}

fn stands<'a, 'f>(archive: &'a Placed<'f>, errors: &Errors) -> Vec<Stand<'a, 'f>> {
    let (layout, path) = (&archive.config.layout, &archive.field.path);
    let known = |at: &str, names: Option<&'a Vec<String>>| -> &'a [String] {
        if errors.about(&format!("{at}.destination")) { &[] } else { names.map_or(&[], Vec::as_slice) }
    };
    let mut names = archive.config.destination_names.iter();
    let mut stands: Vec<Stand<'a, 'f>> = Vec::new();
    for (output, field) in layout.outputs.iter().zip(&archive.outputs) {
        let at = field.as_ref().map_or_else(|| format!("{path}.output"), |field| field.path.clone());
        stands.push(Stand {
            output: &output.name,
            place: &output.place,
            extensions: (output.place.extension(&output.format), output.format.extension(Ending::Whole)),
            destinations: known(&at, names.next()),
            field: field.as_ref().unwrap_or(&archive.field).clone(),
            at,
        });
    }
    let own = archive.field.peek("dead_letters");
    let at = format!("{path}.dead_letters");
    let destinations = match (own.as_ref().and_then(|field| field.peek("destination")), stands.first()) {
        // Without a destination of their own they go where the first output goes.
        (None, Some(first)) => first.destinations,
        _ => known(&at, names.next()),
    };
    let dead = &layout.dead_letters;
    stands.push(Stand {
        output: DEAD_LETTERS,
        place: &dead.place,
        extensions: (dead.extension(), dead.format.extension(Ending::Whole)),
        destinations,
        field: own.unwrap_or_else(|| archive.field.clone()),
        at,
    });
    stands
}

/// Where objects go, as far as the URLs are known.
fn spots(names: &[String], destinations: &BTreeMap<String, DestinationConfig>) -> Vec<Spot> {
    let known = names.iter().filter_map(|name| destinations.get(name)).filter(|known| !known.url.is_empty());
    known
        .map(|destination| {
            let endpoint = destination.options.get("endpoint").map(|endpoint| endpoint.reveal());
            Spot::from_url(&destination.url, endpoint)
        })
        .collect()
}
