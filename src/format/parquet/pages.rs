//! What a layout says of pages, dictionaries and bloom filters, as the library's own settings.

use crate::format::BlockLimit;
use crate::layout::{Dictionaries, Pages};
use parquet::basic::Type as Physical;
use parquet::file::properties::WriterPropertiesBuilder;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

/// Values that are written between two looks at the size of the page, where pages are of the usual size.
const BATCH_VALUES: u32 = 1024;

/// Bytes of a page for each value between two looks: so small pages end near their size.
const BYTES_A_VALUE: u32 = 64;

/// Bytes of a row group for each value that its filters together are sized for: the filters of a full one take at most an
/// eighth of its bytes.
const FILTER_SHARE: u64 = 16;

/// Bytes of a filter for each value that it is sized for: one wrong answer in twenty, rounded up to a power of two.
const FILTER_BYTES: u64 = 2;

/// What a layout says, and whether its columns are given. Of inferred ones nobody knows the names beforehand: rules for columns
/// that are not there are passed over then.
pub(in crate::format) struct PageRules<'a> {
    pub(in crate::format) pages: &'a Pages,
    pub(in crate::format) is_given: bool,
}

/// What bloom filters take.
pub(super) struct Filters {
    count: u64,
    /// Of each, at most.
    bytes: u64,
}

impl Filters {
    /// Bytes of memory beside a row group of any size: all filters are made with its first row, and keep what they took when they
    /// are folded to what their values need.
    pub(super) fn memory(&self) -> u64 {
        self.count * self.bytes
    }
}

impl PageRules<'static> {
    /// Nothing is said.
    pub(super) const USUAL: Self = Self {
        pages: &Pages { bloom_filters: Vec::new(), dictionary: Dictionaries::All, page_bytes: None },
        is_given: true,
    };
}

impl PageRules<'_> {
    /// Adds the rules for row groups within `limit` to `properties`.
    ///
    /// # Errors
    /// A column that is not there, is named twice, or cannot have a filter.
    pub(super) fn apply(
        &self,
        properties: WriterPropertiesBuilder,
        leaves: &SchemaDescriptor,
        limit: BlockLimit,
    ) -> Result<(WriterPropertiesBuilder, Filters), String> {
        let mut properties = properties;
        if let Some(bytes) = self.pages.page_bytes {
            let values = (bytes / BYTES_A_VALUE).clamp(1, BATCH_VALUES);
            properties = properties.set_data_page_size_limit(bytes as usize).set_write_batch_size(values as usize);
        }
        match &self.pages.dictionary {
            Dictionaries::All => {}
            Dictionaries::None => properties = properties.set_dictionary_enabled(false),
            Dictionaries::Only(names) => {
                properties = properties.set_dictionary_enabled(false);
                for column in self.find("dictionary", names, leaves)? {
                    properties = properties.set_column_dictionary_enabled(column.path().clone(), true);
                }
            }
        }
        let filtered = self.find("bloom_filters", &self.pages.bloom_filters, leaves)?;
        let count = filtered.len() as u64;
        let values = (limit.bytes as u64 / FILTER_SHARE / count.max(1)).clamp(1, u64::from(limit.rows).max(1));
        for column in filtered {
            if column.physical_type() == Physical::BOOLEAN {
                if self.is_given {
                    return Err(format!(
                        "bloom_filters: {} is true or false, which no filter tells apart",
                        column.path()
                    ));
                }
                continue;
            }
            properties = properties.set_column_bloom_filter_max_ndv(column.path().clone(), values);
        }
        Ok((properties, Filters { count, bytes: (values * FILTER_BYTES).max(32) }))
    }

    /// The columns of these names.
    fn find<'l>(
        &self,
        key: &str,
        names: &[String],
        leaves: &'l SchemaDescriptor,
    ) -> Result<Vec<&'l ColumnDescriptor>, String> {
        let mut found: Vec<&ColumnDescriptor> = Vec::new();
        for name in names {
            let Some(column) = leaves.columns().iter().find(|column| column.path().string() == *name) else {
                if self.is_given {
                    return Err(format!("{key}: no column {name}; there are {}", some_names(leaves)));
                }
                continue;
            };
            if found.iter().any(|other| other.path() == column.path()) {
                return Err(format!("{key}: the column {name} is named twice"));
            }
            found.push(column);
        }
        Ok(found)
    }
}

fn some_names(leaves: &SchemaDescriptor) -> String {
    /// Most names of columns in a message.
    const SHOWN_MAX: usize = 20;
    let names: Vec<String> = leaves.columns().iter().take(SHOWN_MAX).map(|column| column.path().string()).collect();
    let more = if leaves.num_columns() > SHOWN_MAX { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}
