//! Pinned schemas: `_siltstone/schemas/<archive>.<output>/<n>.json`, created only if absent.
//!
//! Processes infer from different records; the first to pin wins and all write with what it pinned.

use super::{Bucket, BucketError, CONTROL_FOLDER, Created, to_json};
use crate::effect::Effect;
use crate::layout::Column;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// Version of the stored form.
pub const SCHEMA_VERSION: u32 = 1;

/// A dot inside a name is encoded as well: it stands between the two names.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

#[derive(Serialize, Deserialize)]
struct PinnedSchema {
    version: u32,
    columns: Vec<Column>,
}

/// Key of the `n`th schema of an output. `n` counts from 1.
pub fn schema_key(archive: &str, output: &str, n: u32) -> String {
    let encoded = |name| utf8_percent_encode(name, ENCODED);
    format!("{CONTROL_FOLDER}/schemas/{}.{}/{n}.json", encoded(archive), encoded(output))
}

impl Bucket {
    /// Pins `columns` as the `n`th schema of the output, unless one is pinned. Returns the pinned one: the same for
    /// every caller, for ever.
    ///
    /// # Errors
    /// [`BucketError::CannotPin`] where the store cannot create only if absent. Others as they are; after
    /// [`super::Verdict::Retry`] pin again.
    pub async fn pin_schema(
        &self,
        archive: &str,
        output: &str,
        n: u32,
        columns: &[Column],
    ) -> Result<Vec<Column>, BucketError> {
        if !self.destination.conditional_put() {
            return Err(BucketError::CannotPin { destination: self.destination.id().to_string() });
        }
        let key = schema_key(archive, output, n);
        let pinned = PinnedSchema { version: SCHEMA_VERSION, columns: columns.to_vec() };
        match self.create(Effect::SchemaPut, &key, to_json(&pinned)).await? {
            Created::Now => Ok(pinned.columns),
            Created::Found(stored) => {
                self.parse(&key, &stored.bytes, SCHEMA_VERSION).map(|found: PinnedSchema| found.columns)
            }
        }
    }

    /// The `n`th schema of the output; `None` where none is pinned.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn get_schema(&self, archive: &str, output: &str, n: u32) -> Result<Option<Vec<Column>>, BucketError> {
        let key = schema_key(archive, output, n);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        self.parse(&key, &bytes, SCHEMA_VERSION).map(|found: PinnedSchema| Some(found.columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_do_not_meet() {
        assert_eq!(schema_key("access", "parquet", 1), "_siltstone/schemas/access.parquet/1.json");
        assert_eq!(schema_key("a.b", "c", 1), "_siltstone/schemas/a%2Eb.c/1.json");
        assert_ne!(schema_key("a.b", "c", 1), schema_key("a", "b.c", 1));
        assert_eq!(schema_key("../x", "/", 1), "_siltstone/schemas/%2E%2E%2Fx.%2F/1.json");
    }
}
