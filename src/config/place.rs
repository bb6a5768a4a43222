//! The only place where the configuration meets the template language of [`crate::layout`].

use super::{ArchiveConfig, DestinationConfig};
use crate::layout::collide::{self, Claimant, Collision, Spot};
use crate::layout::template::{Piece, Template, TemplateKind};
use crate::layout::{Compression, Decode, Newlines, OutputFormat, Place, preset};
use std::collections::BTreeMap;

/// Names of the presets.
pub(super) const PRESETS: &[&str] = &preset::NAMES;

/// The preset that counts where none is named.
pub(super) const DEFAULT_PRESET: &str = "hive";

/// Path template of dead letters; their names are those of the default preset.
pub(super) const DEAD_LETTER_PATH: &str = "_dead/{topic}/dt=%Y-%m-%d";

/// What `{output}` says in the names of dead letters.
pub(super) const DEAD_LETTERS: &str = "dead_letters";

/// Path and name templates of a preset.
pub(super) fn preset(name: &str) -> Option<(&'static str, &'static str)> {
    preset::preset(name).map(|found| (found.path, found.name))
}

/// Refuses what is no template, and fields where payloads are not looked into.
pub(super) fn check_template(text: &str, kind: TemplateKind, decode: &Decode) -> Result<(), String> {
    let template = Template::parse(text, kind).map_err(|error| error.problem.to_string())?;
    if *decode == Decode::Raw && template.pieces().any(|piece| matches!(piece, Piece::Field(_))) {
        return Err("a field, but decode = \"raw\" looks into no payload".to_string());
    }
    Ok(())
}

/// An output whose names could be those of other records.
pub(super) struct Clash {
    /// Name of its archive.
    pub(super) archive: String,
    /// Its own name; [`DEAD_LETTERS`] for the dead letters.
    pub(super) output: String,
    /// What could happen, and what to do.
    pub(super) problem: String,
}

/// What could give two parts the same key.
pub(super) fn collisions(archives: &[ArchiveConfig], destinations: &BTreeMap<String, DestinationConfig>) -> Vec<Clash> {
    let dead_letters = OutputFormat::Json { compression: Compression::Gzip(6) };
    let extensions: Vec<Vec<String>> = archives
        .iter()
        .map(|archive| {
            let formats = archive.layout.outputs.iter().map(|output| &output.format).chain([&dead_letters]);
            formats.map(extension).collect()
        })
        .collect();
    let mut claimants = Vec::new();
    for (archive, extensions) in archives.iter().zip(&extensions) {
        let outputs = archive.layout.outputs.iter().map(|output| (output.name.as_str(), &output.place));
        let places = outputs.chain([(DEAD_LETTERS, &archive.layout.dead_letters.place)]);
        for (((output, place), extension), names) in places.zip(extensions).zip(&archive.destination_names) {
            claimants.push(claimant(archive, output, place, extension, names, destinations));
        }
    }
    match collide::check(&claimants) {
        Ok(()) => Vec::new(),
        Err(found) => found.iter().map(clash).collect(),
    }
}

fn clash(collision: &Collision) -> Clash {
    let who = match collision {
        Collision::Template { who, .. }
        | Collision::Missing { who, .. }
        | Collision::Undelimited { who, .. }
        | Collision::Generations { who }
        | Collision::ControlFolder { who }
        | Collision::Outputs { other: who, .. }
        | Collision::Archives { other: who, .. } => who,
    };
    Clash { archive: who.archive.clone(), output: who.output.clone(), problem: collision.to_string() }
}

fn claimant<'a>(
    archive: &'a ArchiveConfig,
    output: &'a str,
    place: &'a Place,
    extension: &'a str,
    names: &[String],
    destinations: &BTreeMap<String, DestinationConfig>,
) -> Claimant<'a> {
    let spot = |destination: &DestinationConfig| {
        let endpoint = destination.options.get("endpoint").map(|endpoint| endpoint.reveal());
        Spot::from_url(&destination.url, endpoint)
    };
    Claimant {
        archive: &archive.name,
        output,
        place,
        extension,
        topic: archive.topics.only(),
        generation: archive.layout.generation,
        spots: names.iter().filter_map(|name| destinations.get(name)).map(spot).collect(),
    }
}

/// What the names of a format's objects end in.
fn extension(format: &OutputFormat) -> String {
    let (plain, compression) = match format {
        OutputFormat::Raw { compression, newlines: Newlines::Length } => ("bin", *compression),
        OutputFormat::Raw { compression, .. } => ("txt", *compression),
        OutputFormat::Json { compression } => ("json", *compression),
        OutputFormat::Parquet { .. } => return "parquet".to_string(),
    };
    match compression {
        Compression::Gzip(_) => format!("{plain}.gz"),
        Compression::Zstd(_) => format!("{plain}.zst"),
        Compression::None | Compression::Snappy => plain.to_string(),
    }
}
