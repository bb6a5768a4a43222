//! The bodies of requests. Pure.

use super::fault::{LoadFault, LoadFaultKind};
use super::{BqField, Format, Granularity, HourLoad, Mode, TableRef, URIS_MAX};
use google_cloud_bigquery_v2::model::{
    Job, JobConfiguration, JobConfigurationLoad, JobConfigurationQuery, JobReference, ParquetOptions, TableFieldSchema,
    TableReference, TableSchema, TimePartitioning,
};
use std::collections::BTreeMap;

/// The label that says which archive made a job.
pub(super) const ARCHIVE_LABEL: &str = "siltstone-archive";
/// The query of a job that does nothing but take an id, around the digest that counts instead.
const BAR_QUERY: (&str, &str) = ("SELECT '", "' AS siltstone_loads_instead");

/// Most characters of a label's name or value.
const LABEL_CHARS_MAX: usize = 63;

pub(super) fn job_id(digest: &str, attempt: u32) -> String {
    format!("siltstone_{digest}_{attempt}")
}

/// `text` as a label takes it.
pub(super) fn label(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c.to_ascii_lowercase() } else { '_' };
    text.chars().map(fit).take(LABEL_CHARS_MAX).collect()
}

pub(super) fn labels(given: &BTreeMap<String, String>, archive: &str) -> BTreeMap<String, String> {
    let mut labels = given.clone();
    labels.insert(ARCHIVE_LABEL.to_string(), label(archive));
    labels
}

/// Refuses what cannot be loaded as it is meant, before anything is asked.
pub(super) fn check(load: &HourLoad<'_>) -> Result<(), LoadFault> {
    let refuse =
        |what: String| Err(LoadFault::new(LoadFaultKind::Invalid, format!("load table {}: {what}", load.table)));
    let is_digest = |digest: &str| digest.len() == 32 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(wrong) =
        std::iter::once(load.digest).chain(load.earlier.iter().map(String::as_str)).find(|d| !is_digest(d))
    {
        return refuse(format!("the digest `{wrong}` is not made of 32 hex digits"));
    }
    if load.earlier.iter().any(|earlier| earlier == load.digest) {
        return refuse(format!("the digest {} is its own earlier revision", load.digest));
    }
    if load.uris.is_empty() {
        return refuse("there is no object to load".to_string());
    }
    if load.uris.len() > URIS_MAX {
        return refuse(format!(
            "{} objects; a load job takes {URIS_MAX}. Let the hour have fewer and larger ones (rotation, `siltstone compact`)",
            load.uris.len()
        ));
    }
    if let Some(wrong) = load.uris.iter().find(|uri| !uri.starts_with("gs://")) {
        return refuse(format!("{wrong} is not in Google Cloud Storage, and a load job reads from nowhere else"));
    }
    let unproved = load.uris.iter().find(|uri| uri.contains('*') && !load.has_proved_wildcards);
    if let Some(wrong) = unproved {
        return refuse(format!("{wrong} has a `*`, and nobody has looked what it stands for"));
    }
    if let Err(what) = load.format.check(load.compression) {
        return refuse(what);
    }
    match load.partition {
        Some((start_ms, granularity)) if granularity.partition_id(start_ms).is_none() => {
            refuse(format!("{start_ms} ms is no start of a partition by {}", granularity.name()))
        }
        _ => Ok(()),
    }
}

/// The job that loads `load`, which has been checked.
pub(super) fn load_job(
    load: &HourLoad<'_>,
    project: &str,
    location: &str,
    attempt: u32,
    labels: &BTreeMap<String, String>,
) -> Job {
    let mut table_id = load.table.table.clone();
    let mut body = JobConfigurationLoad::new()
        .set_source_uris(load.uris)
        .set_source_format(load.format.name())
        .set_create_disposition("CREATE_IF_NEEDED")
        .set_write_disposition("WRITE_TRUNCATE");
    if !load.schema.is_empty() {
        body = body.set_schema(schema(load.schema));
    }
    if let Some((start_ms, granularity)) = load.partition {
        let id = granularity.partition_id(start_ms).expect("checked before");
        table_id = format!("{table_id}${id}");
        // Of a whole table the schema is replaced in any case, and BigQuery refuses the option.
        body = body
            .set_time_partitioning(partitioning(granularity, load.partition_field))
            .set_schema_update_options(["ALLOW_FIELD_ADDITION"]);
    }
    body = match load.format {
        Format::Parquet => body.set_parquet_options(ParquetOptions::new().set_enable_list_inference(true)),
        Format::Avro => body.set_use_avro_logical_types(true),
        // Payloads may have fields that no schema names: they are in the archive, and not in the table.
        Format::NewlineDelimitedJson if !load.schema.is_empty() => body.set_ignore_unknown_values(true),
        Format::NewlineDelimitedJson => body,
    };
    // Without it a decimal that is too large for NUMERIC is refused, or made text.
    if load.format != Format::NewlineDelimitedJson && load.schema.iter().any(has_bignumeric) {
        body = body.set_decimal_target_types(["NUMERIC", "BIGNUMERIC"]);
    }
    body = body.set_destination_table(reference(load.table).set_table_id(table_id));
    let mut labels = labels.clone();
    labels.insert("siltstone-attempt".to_string(), attempt.to_string());
    Job::new()
        .set_job_reference(job_reference(project, location, &job_id(load.digest, attempt)))
        .set_configuration(JobConfiguration::new().set_labels(labels).set_load(body))
}

/// A job that takes the id of an attempt and does nothing.
pub(super) fn bar_job(
    digest: &str,
    for_digest: &str,
    project: &str,
    location: &str,
    attempt: u32,
    labels: &BTreeMap<String, String>,
) -> Job {
    let (before, behind) = BAR_QUERY;
    let query =
        JobConfigurationQuery::new().set_query(format!("{before}{for_digest}{behind}")).set_use_legacy_sql(false);
    Job::new()
        .set_job_reference(job_reference(project, location, &job_id(digest, attempt)))
        .set_configuration(JobConfiguration::new().set_labels(labels.clone()).set_query(query))
}

/// The digest that counts instead, of a job that only takes an id.
pub(super) fn barred_for(configuration: &JobConfiguration) -> Option<&str> {
    let (before, behind) = BAR_QUERY;
    configuration.query.as_ref()?.query.strip_prefix(before)?.strip_suffix(behind)
}

fn job_reference(project: &str, location: &str, job_id: &str) -> JobReference {
    JobReference::new().set_project_id(project).set_job_id(job_id).set_location(location)
}

pub(super) fn reference(table: &TableRef) -> TableReference {
    TableReference::new().set_project_id(&table.project).set_dataset_id(&table.dataset).set_table_id(&table.table)
}

fn partitioning(granularity: Granularity, field: Option<&str>) -> TimePartitioning {
    let partitioning = TimePartitioning::new().set_type(granularity.name());
    match field {
        Some(field) => partitioning.set_field(field),
        None => partitioning,
    }
}

pub(super) fn schema(fields: &[BqField]) -> TableSchema {
    TableSchema::new().set_fields(fields.iter().map(column))
}

/// Columns as a table has them.
pub(super) fn columns(fields: &[TableFieldSchema]) -> Vec<BqField> {
    let of = |field: &TableFieldSchema| BqField {
        name: field.name.clone(),
        kind: field.r#type.clone(),
        mode: match field.mode.as_str() {
            "REQUIRED" => Mode::Required,
            "REPEATED" => Mode::Repeated,
            _ => Mode::Nullable,
        },
        fields: columns(&field.fields),
        digits: (field.precision > 0).then_some((field.precision, field.scale)),
        description: Some(field.description.clone().unwrap_or_default()).filter(|text| !text.is_empty()),
    };
    fields.iter().map(of).collect()
}

/// `wanted` with what `there` has besides, so that no load leaves out a column of its table.
pub(super) fn with_those_of(wanted: &[BqField], there: &[BqField]) -> Vec<BqField> {
    let is_same = |one: &BqField, other: &BqField| one.name.eq_ignore_ascii_case(&other.name);
    let merged = wanted.iter().map(|field| match there.iter().find(|known| is_same(field, known)) {
        Some(known) => BqField { fields: with_those_of(&field.fields, &known.fields), ..field.clone() },
        None => field.clone(),
    });
    let missing = there.iter().filter(|known| !wanted.iter().any(|field| is_same(field, known)));
    // What this load has no values for is null in it.
    let missing = missing.map(|known| match known.mode {
        Mode::Required => BqField { mode: Mode::Nullable, ..known.clone() },
        Mode::Nullable | Mode::Repeated => known.clone(),
    });
    merged.chain(missing).collect()
}

fn has_bignumeric(field: &BqField) -> bool {
    field.kind == "BIGNUMERIC" || field.fields.iter().any(has_bignumeric)
}

fn column(field: &BqField) -> TableFieldSchema {
    let mut column = TableFieldSchema::new()
        .set_name(&field.name)
        .set_type(&field.kind)
        .set_mode(field.mode.name())
        .set_fields(field.fields.iter().map(column));
    if let Some((precision, scale)) = field.digits {
        column = column.set_precision(precision).set_scale(scale);
    }
    if let Some(description) = &field.description {
        column = column.set_description(description);
    }
    column
}
