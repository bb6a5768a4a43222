//! An output as the table that a loader fills: its columns, wherever they are written down, and its name.

use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::ddl::{Beside, Source, Store, Table};
use crate::decode::columns::{columns_of_avro, columns_of_message};
use crate::decode::message_of;
use crate::exit::Failure;
use crate::layout::template::{Piece, Template, TemplateKind};
use crate::layout::{Column, Decode, Layout, OutputFormat, OutputLayout, SchemaSource};
use crate::pipeline::start::patiently;
use crate::registry::{Registry, Schema, Target};
use chrono::NaiveDate;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a table is made of, beside the layout.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// Where inferred schemas are pinned.
    pub bucket: &'a Bucket,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Where schemas are asked for.
    pub registry: Option<&'a Arc<Registry>>,
    /// What the batches of the folder were projected onto.
    pub targets: &'a BTreeSet<String>,
    /// The name of the markers in complete folders.
    pub marker: &'a str,
}

/// The output of a topic as a table. The inner error: it cannot be one, or nothing tells its columns yet; in words.
///
/// # Errors
/// A store or the registry does not answer.
pub async fn table_of(
    layout: &Layout,
    output: &OutputLayout,
    topic: &str,
    topics: &[String],
    store: &Store,
    sources: &Sources<'_>,
) -> Result<Result<Table, String>, Failure> {
    let columns = match columns_of(layout, output, sources).await? {
        Ok(columns) => columns,
        Err(why) => return Ok(Err(why)),
    };
    let all = [Beside { layout, topics, marker: Some(sources.marker) }];
    let source = Source {
        layout,
        output,
        topic: is_of_one_topic(&output.place.path).then_some(topic),
        topics,
        one_topic: false,
        columns: columns.as_deref(),
        store: store.clone(),
        name: String::new(),
        since: NaiveDate::default(),
        all: &all,
    };
    Ok(Table::new(&source))
}

/// The columns that the layout does not name itself.
async fn columns_of(
    layout: &Layout,
    output: &OutputLayout,
    sources: &Sources<'_>,
) -> Result<Result<Option<Vec<Column>>, String>, Failure> {
    match output.format.schema() {
        None if matches!(output.format, OutputFormat::Json { .. }) => Ok(Ok(of_json(layout, sources).await?)),
        None | Some(SchemaSource::Columns(_)) => Ok(Ok(None)),
        Some(SchemaSource::Infer) => Ok(inferred(layout, output, sources).await?.map(Some)),
        Some(SchemaSource::Registry) => Ok(registered(layout, sources).await?.map(Some)),
    }
}

/// What is known of the fields of JSON lines: the schema of another output of the same rows, or of the payloads where no program changes them.
async fn of_json(layout: &Layout, sources: &Sources<'_>) -> Result<Option<Vec<Column>>, Failure> {
    for other in &layout.outputs {
        match other.format.schema() {
            None => {}
            Some(SchemaSource::Columns(columns)) => return Ok(Some(columns.clone())),
            Some(SchemaSource::Infer) => {
                if let Ok(columns) = inferred(layout, other, sources).await? {
                    return Ok(Some(columns));
                }
            }
            Some(SchemaSource::Registry) => {
                if let Ok(columns) = registered(layout, sources).await? {
                    return Ok(Some(columns));
                }
            }
        }
    }
    if layout.transform.is_some() {
        return Ok(None);
    }
    Ok(match &layout.decode {
        Decode::Avro { schema } => columns_of_avro(schema).ok(),
        Decode::Protobuf { descriptors, message, .. } => {
            message_of(descriptors, message).and_then(|message| columns_of_message(&message)).ok()
        }
        _ => None,
    })
}

async fn inferred(
    layout: &Layout,
    output: &OutputLayout,
    sources: &Sources<'_>,
) -> Result<Result<Vec<Column>, String>, Failure> {
    let what = format!("the schema of output {} of archive {}", output.name, layout.archive);
    let get = || sources.bucket.get_schema(&layout.archive, &output.name, 1);
    let found = patiently(sources.clock, &what, get).await?;
    Ok(found.ok_or_else(|| format!("{what} is inferred, and not pinned yet")))
}

/// The newest schema of the registry that batches of the folder were projected onto.
async fn registered(layout: &Layout, sources: &Sources<'_>) -> Result<Result<Vec<Column>, String>, Failure> {
    let (Some(format), Some(registry)) = (layout.decode.registry_format(), sources.registry) else {
        return Ok(Err("its schema is in a registry, and the archive has none".to_string()));
    };
    let mut newest: Option<(Target, Arc<Schema>)> = None;
    for text in sources.targets {
        let Ok(target) = text.parse::<Target>() else { continue };
        let what = format!("schema {text} of the registry");
        let Some(schema) = patiently(sources.clock, &what, || registry.schema_or_ask(target.id, format)).await? else {
            return Ok(Err(format!("the registry has schema {text} no more, which batches were written with")));
        };
        if newest.as_ref().is_none_or(|(_, known)| schema.is_newer_than(known)) {
            newest = Some((target, schema));
        }
    }
    Ok(match newest {
        Some((target, schema)) => schema.columns(&target),
        None => Err("no receipt of the folder names the schema of the registry that its rows have".to_string()),
    })
}

/// Whether the path has a topic that is no `name=value`: then a table is of one topic.
pub fn is_of_one_topic(path: &str) -> bool {
    let Ok(template) = Template::parse(path, TemplateKind::Path) else { return false };
    let is_bare = |pieces: &Vec<Piece>| {
        let is_keyed = matches!(pieces.first(), Some(Piece::Text(text)) if text.find('=').is_some_and(|at| at > 0));
        !is_keyed && pieces.iter().any(|piece| matches!(piece, Piece::Topic | Piece::TopicWord(_)))
    };
    template.segments.iter().any(is_bare)
}

/// The pieces of a path by which folders of one window differ, as a user writes them: those of a table's name must tell them apart.
pub fn tells_apart(path: &str) -> Vec<String> {
    let Ok(template) = Template::parse(path, TemplateKind::Path) else { return Vec::new() };
    let told = |piece: &Piece| match piece {
        Piece::Field(path) | Piece::FieldWord(path, _) => Some(format!("{{field.{}}}", path.join("."))),
        Piece::Header(name) => Some(format!("{{header.{name}}}")),
        Piece::Key => Some("{key}".to_string()),
        Piece::Partition(_) => Some("{partition}".to_string()),
        _ => None,
    };
    template.pieces().filter_map(told).collect()
}

/// `template` for a topic: `{topic}` and `{output}` are put in, and what else a table's name cannot have is `_`.
pub fn table_name(template: &str, topic: &str, output: &str) -> String {
    let plain =
        |text: &str| -> String { text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect() };
    template.replace("{topic}", &plain(topic)).replace("{output}", &plain(output))
}

/// Whether the output's rows have columns that an engine can be told.
pub fn has_rows(format: &OutputFormat) -> bool {
    !matches!(format, OutputFormat::Raw { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Bucket;
    use crate::clock::ManualClock;
    use crate::config;
    use crate::ddl::Rows;
    use crate::destination::{Destination, StoreKind};
    use object_store::memory::InMemory;
    use std::path::Path;

    fn layout(path: &str) -> Layout {
        let text = format!(
            "kafka = {{ brokers = \"k\", group = \"g\" }}\n[destinations.a]\nurl = \"s3://a/p\"\n[[archive]]\ntopics = [\"t.x\", \"u\"]\n[[archive.output]]\nname = \"p\"\n\
             format = {{ type = \"parquet\", schema = [{{ name = \"id\", type = \"INT64\" }}] }}\nlayout = {{ path = \"p/{path}\" }}\n[[archive.output]]\nname = \"j\"\n\
             format = \"json\"\nlayout = {{ path = \"{path}\" }}\n"
        );
        let config = config::parse(&text, Path::new(""), &|_| None);
        config.unwrap_or_else(|errors| panic!("the test's own configuration: {errors}")).archives[0].layout.clone()
    }

    async fn table(path: &str, output: usize) -> Table {
        let destination = Destination::from_store("a", "s3://a/p", Arc::new(InMemory::new()), StoreKind::Memory);
        let (bucket, clock) = (Bucket::new(Arc::new(destination)), ManualClock::at(0));
        let (layout, targets) = (layout(path), BTreeSet::new());
        let sources = Sources { bucket: &bucket, clock: &clock, registry: None, targets: &targets, marker: "_SUCCESS" };
        let (store, topics) = (Store::new("s3://a/p", |_| None), ["t.x", "u"].map(String::from));
        let table = table_of(&layout, &layout.outputs[output], "t.x", &topics, &store, &sources).await;
        table.expect("nobody is asked").expect("a table")
    }

    /// Goal: values of a folder are those of the partition columns, whatever the path is made of; a folder of another layout has none.
    #[tokio::test]
    async fn a_folder_tells_the_values_of_its_partition() {
        type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
        let cases: [Case; 4] = [
            ("{topic}/dt=%Y-%m-%d/hr=%H", "t.x/dt=2025-11-21/hr=03", &[("dt", "2025-11-21"), ("hr", "03")]),
            ("{topic}/%Y/%m/%d/%H", "t.x/2025/11/21/03", &[("datehour", "2025/11/21/03")]),
            ("topic={topic}/day=%F", "topic=t.x/day=2025-11-21", &[("topic", "t.x"), ("day", "2025-11-21")]),
            ("{topic}/%F/w={field.a}", "t.x/2025-11-21/w=a%2Fb%3D", &[("day", "2025-11-21"), ("w", "a/b=")]),
        ];
        for (path, folder, expected) in cases {
            let values = table(path, 1).await.folders.values(folder);
            let expected = expected.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            assert_eq!(values, Some(expected.collect()), "{path}");
        }
        let folders = table("{topic}/dt=%F/hr=%H", 1).await.folders;
        for other in
            ["t.x/dt=2025-11-21", "u/dt=2025-11-21/hr=03", "t.x/dt=2025-11-21/hour=03", "t.x/dt=2025-11-21/hr=03/x", ""]
        {
            assert_eq!(folders.values(other), None, "{other}");
        }
    }

    /// Goal: JSON lines have the columns of another output of the same rows.
    #[tokio::test]
    async fn lines_have_the_columns_of_another_output() {
        let Rows::Json(Some(columns)) = table("{topic}/%F", 1).await.rows else { panic!("columns are known") };
        assert_eq!(columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["id"]);
        assert!(matches!(table("{topic}/%F", 0).await.rows, Rows::Parquet(_)));
    }

    /// Goal: names are what engines take, and what tells folders of a window apart is seen.
    #[test]
    fn names_and_what_tells_folders_apart() {
        assert_eq!(table_name("x_{topic}_{output}", "a.b-c", "json"), "x_a_b_c_json");
        assert_eq!(
            tells_apart("{topic}/%F/{field.a.b}/{header.x}/{key}/{partition:05}"),
            ["{field.a.b}", "{header.x}", "{key}", "{partition}"]
        );
        assert!(tells_apart("{topic}/dt=%F/{output}").is_empty());
        assert!(is_of_one_topic("{topic}/%F") && !is_of_one_topic("topic={topic}/%F") && !is_of_one_topic("%F"));
    }
}
