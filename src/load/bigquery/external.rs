//! External tables over the folders themselves: nothing is loaded, and nothing to be paid but queries.

use super::api::Asked;
use super::attempts::patiently;
use super::fault::{LoadFault, LoadFaultKind};
use super::request::{ARCHIVE_LABEL, label, reference, schema};
use super::{BigQuery, BqField, Compression, Format, TableRef};
use crate::effect::Effect;
use google_cloud_bigquery_v2::model::{
    AvroOptions, ExternalDataConfiguration, HivePartitioningOptions, ParquetOptions, Table,
};

/// How the folders below an external table are read: `…/dt=2026-11-29/hr=05/…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiveKeys<'a> {
    /// BigQuery sees names and types by itself.
    Auto,
    /// The same, all as `STRING`.
    Strings,
    /// Names and types, outermost first: `[("dt", "DATE"), ("hr", "STRING")]`.
    Named(&'a [(&'a str, &'a str)]),
}

/// An external table with hive partitioning.
#[derive(Clone, Debug)]
pub struct ExternalTable<'a> {
    /// The table.
    pub table: &'a TableRef,
    /// What all objects begin with, up to the first `key=value`: `gs://bucket/prod/access/`.
    pub uri_prefix: &'a str,
    /// What the objects end in, so that nothing else in the folders is read: `.parquet`.
    pub uri_suffix: &'a str,
    /// The folders.
    pub keys: HiveKeys<'a>,
    /// How objects are written.
    pub format: Format,
    /// What they are packed with.
    pub compression: Compression,
    /// Columns, without those of the folders. Empty: as BigQuery finds them.
    pub schema: &'a [BqField],
    /// Whether each query must say which folders it means.
    pub require_partition_filter: bool,
    /// The archive, for the table's label.
    pub archive: &'a str,
}

/// Whether there was something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is made.
    Now,
    /// An external table of that name was there. It is left as it is.
    Before,
}

impl BigQuery {
    /// Makes the external table if there is none of its name.
    ///
    /// # Errors
    /// [`LoadFault`]; [`LoadFaultKind::Invalid`] where a table of that name is there and is not external.
    pub async fn ensure_external_table(&self, wanted: &ExternalTable<'_>) -> Result<Made, LoadFault> {
        let refuse =
            |what: String| LoadFault::new(LoadFaultKind::Invalid, format!("make table {}: {what}", wanted.table));
        wanted.format.check(wanted.compression).map_err(refuse)?;
        if !wanted.uri_prefix.starts_with("gs://") || !wanted.uri_prefix.ends_with('/') {
            return Err(refuse(format!("the prefix {} is not written gs://BUCKET/FOLDER/", wanted.uri_prefix)));
        }
        loop {
            let there = patiently(&self.pace, || self.api.table(wanted.table)).await?;
            if let Some(there) = there {
                return if there.r#type == "EXTERNAL" {
                    Ok(Made::Before)
                } else {
                    Err(refuse(format!("there is one of that name already, of type {}", there.r#type)))
                };
            }
            let body = self.external_table(wanted);
            let asked =
                patiently(&self.pace, || self.api.make_table(Effect::ExternalTable, wanted.table, body.clone()));
            if let Asked::Made(_) = asked.await? {
                return Ok(Made::Now);
            }
        }
    }

    fn external_table(&self, wanted: &ExternalTable<'_>) -> Table {
        let mut labels = self.labels.clone();
        labels.insert(ARCHIVE_LABEL.to_string(), label(wanted.archive));
        let mut source = ExternalDataConfiguration::new()
            .set_source_uris([format!("{}*{}", wanted.uri_prefix, wanted.uri_suffix)])
            .set_source_format(wanted.format.name())
            .set_hive_partitioning_options(hive(wanted));
        if wanted.schema.is_empty() {
            source = source.set_autodetect(true);
        } else {
            source = source.set_schema(schema(wanted.schema));
            if wanted.format == Format::NewlineDelimitedJson {
                source = source.set_ignore_unknown_values(true);
            }
        }
        source = match wanted.format {
            Format::Parquet => source.set_parquet_options(ParquetOptions::new().set_enable_list_inference(true)),
            Format::Avro => source.set_avro_options(AvroOptions::new().set_use_avro_logical_types(true)),
            Format::NewlineDelimitedJson if wanted.compression == Compression::Gzip => source.set_compression("GZIP"),
            Format::NewlineDelimitedJson => source,
        };
        Table::new()
            .set_table_reference(reference(wanted.table))
            .set_labels(labels)
            .set_external_data_configuration(source)
    }
}

fn hive(wanted: &ExternalTable<'_>) -> HivePartitioningOptions {
    let options = HivePartitioningOptions::new().set_require_partition_filter(wanted.require_partition_filter);
    match wanted.keys {
        HiveKeys::Auto => options.set_mode("AUTO").set_source_uri_prefix(wanted.uri_prefix),
        HiveKeys::Strings => options.set_mode("STRINGS").set_source_uri_prefix(wanted.uri_prefix),
        HiveKeys::Named(keys) => {
            let named: Vec<_> = keys.iter().map(|(name, kind)| format!("{{{name}:{kind}}}")).collect();
            options.set_mode("CUSTOM").set_source_uri_prefix(format!("{}{}", wanted.uri_prefix, named.join("/")))
        }
    }
}
