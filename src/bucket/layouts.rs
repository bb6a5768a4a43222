//! Stored layouts: `_siltstone/layouts/<fingerprint>.json`, before the first plan that uses them.
//!
//! The bytes are the layout's canonical JSON, so their SHA-256 must begin with the fingerprint they are stored under.

use super::{Bucket, BucketError, CONTROL_FOLDER, Created};
use crate::effect::Effect;
use crate::layout::{LAYOUT_VERSION, Layout, ROWS_REVISION};
use crate::upload::hex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Key of the layout with that fingerprint.
pub fn layout_key(fingerprint: &str) -> String {
    format!("{CONTROL_FOLDER}/layouts/{fingerprint}.json")
}

#[derive(Deserialize)]
struct LayoutVersion {
    version: u32,
}

#[derive(Deserialize)]
struct LayoutFolders {
    outputs: Vec<OutputFolders>,
}

/// What of an output decides in which folders its objects lie.
#[derive(Clone, Debug, Deserialize)]
pub struct OutputFolders {
    /// Name of the output.
    pub name: String,
    /// The templates and the zone.
    pub place: FolderTemplate,
}

/// How folders are called.
#[derive(Clone, Debug, Deserialize)]
pub struct FolderTemplate {
    /// Template of the path.
    pub path: String,
    /// Time zone.
    pub zone: String,
}

impl Bucket {
    /// Stores `layout` unless it is there.
    ///
    /// # Errors
    /// [`BucketError::Unreadable`]: something else is there under its fingerprint. Others as they are.
    pub async fn put_layout(&self, layout: &Layout) -> Result<(), BucketError> {
        let fingerprint = layout.fingerprint();
        let key = layout_key(&fingerprint);
        match self.create(Effect::LayoutPut, &key, layout.canonical_json()).await? {
            Created::Now => Ok(()),
            Created::Found(stored) => self.check_fingerprint(&key, &fingerprint, &stored.bytes),
        }
    }

    /// The layout with that fingerprint.
    ///
    /// # Errors
    /// [`BucketError::Layout`]: it is not there, or this release cannot read it. [`BucketError::Unreadable`]: damaged.
    /// Others as they are.
    pub async fn get_layout(&self, fingerprint: &str) -> Result<Layout, BucketError> {
        let unusable = |what: String| BucketError::Layout {
            fingerprint: fingerprint.to_string(),
            destination: self.destination.id().to_string(),
            what,
        };
        let key = layout_key(fingerprint);
        let bytes = self.get(&key).await?.ok_or_else(|| unusable("it is not stored there".to_string()))?;
        self.check_fingerprint(&key, fingerprint, &bytes)?;
        let version: LayoutVersion =
            serde_json::from_slice(&bytes).map_err(|error| self.unreadable(&key, error.to_string()))?;
        if version.version > LAYOUT_VERSION {
            let what = format!("it has version {}, this release reads up to {LAYOUT_VERSION}", version.version);
            return Err(unusable(what));
        }
        // Its bytes are right, so what does not parse is a setting of another release.
        let layout: Layout = serde_json::from_slice(&bytes)
            .map_err(|error| unusable(format!("this release cannot read it: {error}")))?;
        if layout.code.rows != ROWS_REVISION {
            let rows = layout.code.rows;
            return Err(unusable(format!(
                "its rows are of revision {rows}, this release makes revision {ROWS_REVISION}"
            )));
        }
        Ok(layout)
    }

    /// The folders of the outputs of the layout with that fingerprint, by output: of layouts that this release cannot use, too.
    ///
    /// # Errors
    /// As [`Bucket::get_layout`].
    pub async fn layout_folders(&self, fingerprint: &str) -> Result<Vec<OutputFolders>, BucketError> {
        let key = layout_key(fingerprint);
        let bytes = self.get(&key).await?.ok_or_else(|| BucketError::Layout {
            fingerprint: fingerprint.to_string(),
            destination: self.destination.id().to_string(),
            what: "it is not stored there".to_string(),
        })?;
        self.check_fingerprint(&key, fingerprint, &bytes)?;
        let folders: LayoutFolders =
            serde_json::from_slice(&bytes).map_err(|error| self.unreadable(&key, error.to_string()))?;
        Ok(folders.outputs)
    }

    fn check_fingerprint(&self, key: &str, fingerprint: &str, bytes: &[u8]) -> Result<(), BucketError> {
        let found = hex(&Sha256::digest(bytes));
        if fingerprint.is_empty() || !found.starts_with(fingerprint) {
            return Err(self.unreadable(key, format!("its SHA-256 is {found}")));
        }
        Ok(())
    }
}
