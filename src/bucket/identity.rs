//! Whose archive it is: `_siltstone/archive.json`, created once, checked at every start.
//!
//! Two clusters, or two groups, on one prefix would vouch for each other's offsets. Neither can begin unnoticed.

use super::{Bucket, BucketError, CONTROL_FOLDER, Created, to_json};
use crate::effect::Effect;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Format of the whole archive: raised when an older release must not touch it any more.
pub const ARCHIVE_FORMAT: u32 = 1;

/// Whose archive it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`ARCHIVE_FORMAT`].
    pub format: u32,
    /// Id of the Kafka cluster.
    pub cluster_id: String,
    /// Consumer group.
    pub group: String,
    /// Where partitions start that never had an offset: decided once, by whoever began the archive.
    #[serde(default)]
    pub start: StoredStart,
}

/// What was there when the archive was begun with another start than the first offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredStart {
    /// Log ends by topic and Kafka partition. A partition that is not here appeared later and starts at its first offset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ends: BTreeMap<String, Vec<i64>>,
}

/// Its key.
pub fn identity_key() -> String {
    format!("{CONTROL_FOLDER}/archive.json")
}

impl Bucket {
    /// Takes the archive for `cluster_id` and `group`, or checks that it is theirs. Gives what is in the bucket.
    ///
    /// # Errors
    /// [`BucketError::IdentityMismatch`]: it belongs to somebody else; the message says what to do.
    /// [`BucketError::Newer`]: a newer release works here. Others as they are.
    pub async fn ensure_identity(
        &self,
        cluster_id: &str,
        group: &str,
        start: StoredStart,
    ) -> Result<Identity, BucketError> {
        let ours =
            Identity { format: ARCHIVE_FORMAT, cluster_id: cluster_id.to_string(), group: group.to_string(), start };
        let key = identity_key();
        let theirs: Identity = match self.create(Effect::IdentityPut, &key, to_json(&ours)).await? {
            Created::Now => return Ok(ours),
            Created::Found(stored) => self.parse(&key, &stored.bytes, ARCHIVE_FORMAT)?,
        };
        let mismatch = |what, ours: String, theirs: String, way_back| BucketError::IdentityMismatch {
            what,
            ours,
            theirs,
            destination: self.destination.id().to_string(),
            way_back,
        };
        if theirs.cluster_id != ours.cluster_id {
            let way_back = "connect to the archive's own cluster";
            return Err(mismatch("cluster", ours.cluster_id, theirs.cluster_id, way_back));
        }
        if theirs.group != ours.group {
            let way_back = "set [kafka] group back to that name";
            return Err(mismatch("group", ours.group, theirs.group, way_back));
        }
        Ok(theirs)
    }

    /// Whose archive it is; `None` where nobody has begun.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn identity(&self) -> Result<Option<Identity>, BucketError> {
        let key = identity_key();
        let found = self.get(&key).await?;
        found.map(|bytes| self.parse(&key, &bytes, ARCHIVE_FORMAT)).transpose()
    }
}
