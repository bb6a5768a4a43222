//! `[[archive.load]]`: what brings complete folders into catalogues and databases.

use super::archive::{self, Surroundings};
use super::error::did_you_mean;
use super::raw::{Field, Section};
use super::shape::{self, Shape};
use super::{
    ArchiveConfig, BigQueryLoad, CompleteConfig, HiveLoad, LoadConfig, LoadTo, TopicPatterns, destination, resolve,
};
use crate::complete::calendars::calendars;
use crate::layout::{AvroCodec, Compression, Layout, OutputFormat, OutputLayout};
use crate::load::bigquery::{self, granularity};
use crate::load::table::{has_rows, is_of_one_topic, table_name, tells_apart};
use chrono::{DateTime, NaiveDate, NaiveTime};
use std::collections::BTreeMap;

/// The table where none is named and the path keeps topics apart.
pub const DEFAULT_TABLE: &str = "{topic}";
/// `database` where none is named.
pub const DEFAULT_DATABASE: &str = "default";

const TYPES: &[(&str, &Shape)] = &[("hive", &shape::LOAD_HIVE), ("bigquery", &shape::LOAD_BIGQUERY)];
const TABLE: &str = "a name of letters, digits and _, with {topic} and {output}";
const BIGQUERY_TABLE: &str = "a name of letters, digits and _, with {topic}, {output} and, for a table an hour or day, strftime parts such as hits_%Y%m%d%H";
const URI: &str = "thrift://host:port of a Hive Metastore, or a list of them";
const WORD: &str = "a name";

/// What the archive has of them.
pub(super) fn resolve(
    archive: &Section<'_>,
    layout: &Layout,
    topics: &TopicPatterns,
    complete: Option<&CompleteConfig>,
    destination_names: &[Vec<String>],
    surroundings: &Surroundings<'_>,
) -> Vec<LoadConfig> {
    const NEEDED: &str = "sections [[archive.load]]";
    let fields = archive.field("load").and_then(|field| field.list(NEEDED)).unwrap_or_default();
    let mut loads: Vec<LoadConfig> = Vec::new();
    for field in fields {
        let kinds: Vec<_> = TYPES.iter().enumerate().map(|(index, (name, _))| (*name, index)).collect();
        let Some(kind) = field.peek("type").and_then(|kind| kind.choice(&kinds)) else {
            if field.is_table() && field.peek("type").is_none() {
                field.wrong::<()>("it has no type", "type = \"hive\" or type = \"bigquery\"");
            }
            continue;
        };
        let Some(section) = field.section(TYPES[kind].1) else { continue };
        if complete.is_none() && !archive.has("complete") {
            field.wrong::<()>(
                "folders are loaded when they are complete, and nothing completes them",
                "a section [archive.complete], which may be empty",
            );
        }
        let load = Load { archive, section: &section, layout, topics, surroundings };
        let Some(output) = load.output() else { continue };
        let index = layout.outputs.iter().position(|other| other.name == output.name).unwrap_or_default();
        let names = destination_names.get(index).map(Vec::as_slice).unwrap_or_default();
        let Some(destination_name) = load.destination(names, TYPES[kind].0) else { continue };
        let Some(to) = load.to(TYPES[kind].0, output) else { continue };
        let name = archive::name(&section, "name").unwrap_or(TYPES[kind].0).to_string();
        let destination = surroundings.destinations.get(&destination_name).map(|found| found.url.clone());
        let load = LoadConfig {
            since_ms: section.field("since").and_then(|field| since(&field)),
            name,
            output: output.name.clone(),
            destination: destination.unwrap_or_default(),
            destination_name,
            to,
        };
        if loads.iter().any(|other| other.name == load.name) {
            section.cross(
                "name",
                "the same name as another loader of this archive".to_string(),
                "another name for each loader; without one it is the type".to_string(),
            );
        }
        loads.push(load);
    }
    loads
}

impl LoadConfig {
    /// Where it loads: metastores or project, database or dataset, and the table's template.
    pub fn place(&self) -> (String, String, String) {
        match &self.to {
            LoadTo::Hive(hive) => {
                let mut uris = hive.uris.clone();
                uris.sort();
                (uris.join(","), hive.database.to_lowercase(), hive.table.clone())
            }
            LoadTo::BigQuery(to) => (to.project.clone(), to.dataset.clone(), to.table.clone()),
        }
    }

    /// The tables of those topics, as far as two loaders can mean the same one.
    fn tables(&self, topics: &TopicPatterns) -> Vec<(String, String, String)> {
        let (at, within, table) = self.place();
        let names = |topic: &str| {
            let name = table_name(&table, topic, &self.output);
            (at.clone(), within.clone(), if matches!(self.to, LoadTo::Hive(_)) { name.to_lowercase() } else { name })
        };
        match topics.names.is_empty() || !table.contains("{topic}") {
            true => vec![names("{topic}")],
            false => topics.names.iter().map(|topic| names(topic)).collect(),
        }
    }
}

/// Refuses two loaders, of one archive or of two, that load one table: each would take away what the other one has loaded. So do two topics whose names are
/// one name there.
pub(super) fn check_tables<'c>(root: &Section<'_>, archives: impl Iterator<Item = &'c ArchiveConfig>) {
    let mut known: BTreeMap<(String, String, String), String> = BTreeMap::new();
    for archive in archives {
        for load in &archive.loads {
            for table in load.tables(&archive.topics) {
                let own = format!("the loader {:?} of archive {}", load.name, archive.name);
                if let Some(other) = known.insert(table.clone(), own.clone()) {
                    let whom = if other == own { "another topic of it".to_string() } else { other };
                    root.cross(
                        "archive",
                        format!("{own} loads the table {} as {whom} does: each would take away what the other one has loaded", table.2),
                        "a table of its own for each, as with {topic} and {output} in its name".to_string(),
                    );
                }
            }
        }
    }
}

/// The start of a day, or an instant.
fn since(field: &Field<'_>) -> Option<i64> {
    const SINCE: &str = "a day such as 2026-11-01, or an instant such as 2026-11-01T12:00:00Z";
    let text = field.text(SINCE)?;
    let day = text.parse::<NaiveDate>().ok().map(|day| day.and_time(NaiveTime::MIN).and_utc().timestamp_millis());
    let instant = || DateTime::parse_from_rfc3339(text).ok().map(|instant| instant.timestamp_millis());
    match day.or_else(instant) {
        Some(since_ms) => Some(since_ms),
        None => field.wrong("neither a day nor an instant", SINCE),
    }
}

struct Load<'s, 'a> {
    archive: &'s Section<'a>,
    section: &'s Section<'a>,
    layout: &'s Layout,
    topics: &'s TopicPatterns,
    surroundings: &'s Surroundings<'s>,
}

impl<'s> Load<'s, '_> {
    fn output(&self) -> Option<&'s OutputLayout> {
        let outputs = &self.layout.outputs;
        let names = || outputs.iter().map(|output| output.name.as_str());
        let allowed = format!("an output of the archive: {}", names().collect::<Vec<_>>().join(", "));
        let output = match self.section.field("output") {
            Some(field) => {
                let name = field.text(&allowed)?;
                let found = outputs.iter().find(|output| output.name == name);
                if found.is_none() {
                    return field.wrong(format!("no such output{}", did_you_mean(name, names())), &allowed);
                }
                found
            }
            None if outputs.len() == 1 => outputs.first(),
            None => {
                self.section.missing("output", "missing, and the archive has several outputs", &allowed);
                None
            }
        }?;
        if !self.archive.is_sound(&["output"]) {
            return None;
        }
        let wrong = |problem: String, allowed: &str| self.section.cross("output", problem, allowed.to_string());
        if !calendars(self.layout).contains_key(&output.name) {
            wrong(
                format!(
                    "path = {:?} of output {:?} shows no event time, so none of its folders is ever complete",
                    output.place.path, output.name
                ),
                "an output with strftime parts in its path",
            );
            return None;
        }
        if !has_rows(&output.format) {
            wrong(
                format!("output {:?} is raw, and payloads as they are have no columns", output.name),
                "an output of format json, parquet, avro or envelope",
            );
            return None;
        }
        Some(output)
    }

    /// The name of the destination that is loaded from.
    fn destination(&self, names: &[String], kind: &str) -> Option<String> {
        let is_google = |name: &&String| {
            self.surroundings.destinations.get(*name).is_some_and(|found| found.url.starts_with("gs://"))
        };
        let allowed = format!("a destination of the output: {}", names.join(", "));
        let chosen = match self.section.field("destination") {
            Some(field) => {
                let name = field.text(&allowed)?;
                let found = names.iter().find(|other| *other == name);
                if found.is_none() {
                    return field.wrong("the output does not go there", &allowed);
                }
                found
            }
            None if kind == "bigquery" => names.iter().find(is_google).or(names.first()),
            None => names.first(),
        }?;
        if kind == "bigquery" && !is_google(&chosen) && self.archive.is_sound(&["output"]) {
            self.section.cross(
                "destination",
                "BigQuery loads from Google Cloud Storage alone, and the output does not go there".to_string(),
                "an output with a destination whose url is gs://…".to_string(),
            );
            return None;
        }
        Some(chosen.clone())
    }

    fn to(&self, kind: &str, output: &OutputLayout) -> Option<LoadTo> {
        match kind {
            "hive" => self.hive(output).map(LoadTo::Hive),
            _ => self.bigquery(output).map(LoadTo::BigQuery),
        }
    }

    fn word(&self, key: &'static str) -> Option<String> {
        let field = self.section.field(key)?;
        field.word(128, |c| c.is_ascii_graphic() && c != '`', WORD).map(str::to_string)
    }

    fn needed(&self, key: &'static str, allowed: &str) -> Option<String> {
        if !self.section.has(key) {
            self.section.missing(key, "missing", allowed);
        }
        self.word(key)
    }

    /// The table's name: it must tell topics apart where each is a table of its own, or where they would replace each other's.
    fn table(&self, output: &OutputLayout, allowed: &str, must_tell_topics: bool) -> Option<String> {
        let is_of_one = is_of_one_topic(&output.place.path);
        let table = match self.section.field("table") {
            Some(field) => {
                let text = field.text(allowed)?;
                let plain = text.replace("{topic}", "t").replace("{output}", "o");
                let legal =
                    |c: char| c.is_ascii_alphanumeric() || c == '_' || (allowed == BIGQUERY_TABLE && "%-".contains(c));
                if plain.is_empty() || !plain.chars().all(legal) {
                    return field.wrong("not the name of a table", allowed);
                }
                text.to_string()
            }
            None if is_of_one || must_tell_topics => DEFAULT_TABLE.to_string(),
            None => table_name("{topic}", &self.layout.archive, ""),
        };
        let shares = self.topics.only().is_none() && !table.contains("{topic}");
        if shares && (is_of_one || must_tell_topics) {
            self.section.cross(
                "table",
                format!("{table:?} is one table for all topics of the archive, and each topic has folders of its own"),
                "{topic} in the name, or one topic in the archive".to_string(),
            );
            return None;
        }
        Some(table)
    }

    fn hive(&self, output: &OutputLayout) -> Option<HiveLoad> {
        let section = self.section;
        if !section.has("uri") {
            section.missing("uri", "missing", URI);
        }
        let uri = |field: &Field<'_>| {
            let text = field.text(URI)?;
            match text.starts_with("thrift://") {
                true => Some(text.to_string()),
                false => field.wrong("not the URI of a metastore", URI),
            }
        };
        let uris: Vec<String> =
            section.field("uri").and_then(|field| field.one_or_many(URI))?.iter().filter_map(uri).collect();
        let base_dir = self.surroundings.base_dir;
        let ca_file = section
            .field("ca_file")
            .and_then(|field| resolve::path(&field, base_dir, "the path of certificates in PEM"));
        let flag = |key| section.field(key).and_then(|field| field.flag()).unwrap_or(false);
        let location = || {
            const LOCATION: &str = "the URL of the destination as engines read it, such as s3a://bucket/prefix";
            let field = section.field("location")?;
            let text = field.text(LOCATION)?;
            match text.contains("://") {
                true => Some(text.trim_end_matches('/').to_string()),
                false => field.wrong("no URL", LOCATION),
            }
        };
        let mut parameters = BTreeMap::new();
        for (name, field) in
            section.field("parameters").and_then(|field| field.entries("a table of texts")).unwrap_or_default()
        {
            parameters.extend(field.text("a text").map(|text| (name.to_string(), text.to_string())));
        }
        Some(HiveLoad {
            uris,
            tls: flag("tls"),
            ca_file,
            user: self.word("user"),
            database: self.word("database").unwrap_or_else(|| DEFAULT_DATABASE.to_string()),
            table: self.table(output, TABLE, false)?,
            create: flag("create"),
            add_columns: flag("add_columns"),
            location: location(),
            parameters,
        })
    }

    fn bigquery(&self, output: &OutputLayout) -> Option<BigQueryLoad> {
        let section = self.section;
        let (project, dataset) =
            (self.needed("project", "the project that has the dataset")?, self.needed("dataset", "the dataset")?);
        let external = section.field("external").and_then(|field| field.flag()).unwrap_or(false);
        let table = self.table(output, BIGQUERY_TABLE, !external)?;
        let template = table.replace("{topic}", "t").replace("{output}", "o");
        let probe = NaiveDate::default().and_time(NaiveTime::MIN);
        let rendered = {
            use std::fmt::Write;
            let mut text = String::new();
            write!(text, "{}", probe.format(&template)).map(|()| text)
        };
        let rendered = rendered.ok().map(|text| format!("{project}.{dataset}.{text}").parse::<bigquery::TableRef>());
        match rendered {
            Some(Ok(_)) => {}
            Some(Err(problem)) => section.cross("table", problem, BIGQUERY_TABLE.to_string()),
            None => section.cross(
                "table",
                format!("{table:?} has no strftime parts that are known"),
                BIGQUERY_TABLE.to_string(),
            ),
        }
        let spans = granularity(&output.place.path, &output.place.zone);
        if table.contains('%') && !external && section.is_sound(&["table"]) {
            // Two windows of one name would replace each other.
            match (granularity(&template, "UTC"), &spans) {
                (Err(misfit), _) => section.cross("table", misfit.to_string().replacen("path", "table", 1), BIGQUERY_TABLE.to_string()),
                (Ok(of_table), Ok(of_folders)) if of_table != *of_folders => section.cross(
                    "table",
                    format!("{table:?} is a table each {}, and folders are {}s: each would take away what the one before has loaded", of_table.word(), of_folders.word()),
                    format!("the {} in the name, such as hits_{}", of_folders.word(), if of_folders.word() == "day" { "%Y%m%d" } else { "%Y%m%d%H" }),
                ),
                _ => {}
            }
        }
        for key in ["partition_field", "table"] {
            let is_wrong = if key == "table" { table.contains('%') } else { section.has(key) };
            if external && is_wrong {
                section.cross(
                    key,
                    "an external table is one table over all folders".to_string(),
                    "no partition_field, and no strftime parts in table".to_string(),
                );
            }
        }
        let wrong = |problem: String, allowed: &str| section.cross("output", problem, allowed.to_string());
        if let Err(misfit) = spans
            && !external
        {
            wrong(misfit.to_string(), "an output whose folders are hours or days of UTC");
        }
        let apart = tells_apart(&output.place.path);
        if !apart.is_empty() && !external {
            wrong(
                format!(
                    "a load replaces a whole partition, and path = {:?} has several folders an hour or day, by {}",
                    output.place.path,
                    apart.join(", ")
                ),
                "an output whose path has the event time and {topic} alone, or external = true",
            );
        }
        if let Err(problem) = written(&output.format) {
            wrong(problem, "an output that BigQuery can read");
        }
        let file = section.field("credentials_file");
        let file = file.and_then(|field| {
            resolve::path(&field, self.surroundings.base_dir, "the path of a key or configuration of Google's")
        });
        let endpoint = || {
            const ENDPOINT: &str = "http://host:port of an emulator, without a path";
            let field = section.field("endpoint")?;
            let text = field.text(ENDPOINT)?;
            match destination::http_url(text) {
                Some(_) => Some(text.trim_end_matches('/').to_string()),
                None => field.wrong("no URL", ENDPOINT),
            }
        };
        let mut labels = BTreeMap::new();
        for (name, field) in
            section.field("labels").and_then(|field| field.entries("a table of texts")).unwrap_or_default()
        {
            labels.extend(field.text("a text").map(|text| (name.to_string(), text.to_string())));
        }
        Some(BigQueryLoad {
            project,
            dataset,
            table,
            external,
            partition_field: self.word("partition_field"),
            location: self.word("location"),
            credentials_file: file,
            endpoint: endpoint(),
            labels,
        })
    }
}

fn written(format: &OutputFormat) -> Result<(), String> {
    use bigquery::Compression as Packed;
    let of = |compression: &Compression| match compression {
        Compression::None => Packed::None,
        Compression::Gzip(_) => Packed::Gzip,
        Compression::Zstd(_) => Packed::Zstd,
        Compression::Snappy => Packed::Snappy,
        Compression::Lz4 => Packed::Lz4,
    };
    match format {
        OutputFormat::Json { compression } => bigquery::Format::NewlineDelimitedJson.check(of(compression)),
        OutputFormat::Parquet { compression, .. } | OutputFormat::Envelope { compression, .. } => {
            bigquery::Format::Parquet.check(of(compression))
        }
        OutputFormat::Avro { codec, .. } => bigquery::Format::Avro.check(match codec {
            AvroCodec::None => Packed::None,
            AvroCodec::Deflate => Packed::Deflate,
            AvroCodec::Snappy => Packed::Snappy,
            AvroCodec::Zstd => Packed::Zstd,
        }),
        OutputFormat::Raw { .. } => Ok(()),
    }
}
