//! Proves at start, and in `check --connect`, that a destination can be worked with; if not, says what to do.
//!
//! Works on objects of its own under `_siltstone/probe/` and changes nothing else. `check` puts, reads, lists and deletes
//! one; a process that starts leaves one behind, the same for all processes, and deletes nothing: archiving needs no
//! right to delete, and stores that keep folders (a file system behind an S3 gateway) remove a folder with its last
//! object, under the hands of another process that is just about to put something there.

use super::Bucket;
use crate::destination::DestinationError;
use crate::destination::fault::{Fault, FaultKind, Verdict};
use crate::effect::{Effect, requests};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Why a destination cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No such bucket or container.
    #[error("there is no bucket at {destination}: {fault}; create it, or correct the destination's url")]
    MissingBucket {
        /// Destination id.
        destination: String,
        /// What came back.
        fault: Fault,
    },
    /// The login is wrong, or there is none.
    #[error(
        "{destination} does not accept the credentials: {fault}; check the destination's key options, the environment, \
         or the identity of this machine, and the machine's clock"
    )]
    Credentials {
        /// Destination id.
        destination: String,
        /// What came back.
        fault: Fault,
    },
    /// The login is right, but a right is missing.
    #[error("{destination} does not allow to {action}: {fault}; allow put, get, list and delete under its prefix")]
    NotAllowed {
        /// What was tried.
        action: &'static str,
        /// Destination id.
        destination: String,
        /// What came back.
        fault: Fault,
    },
    /// Nobody answers.
    #[error("{destination} cannot be reached at {endpoint}: {fault}; check the destination's endpoint and the network")]
    Unreachable {
        /// Destination id.
        destination: String,
        /// Host and port, or whose public endpoint it is.
        endpoint: String,
        /// What came back.
        fault: Fault,
    },
    /// The store does not do what the protocol builds on.
    #[error("{destination} cannot be used: {what}")]
    Unsuitable {
        /// Destination id.
        destination: String,
        /// What it does, and what to do about it.
        what: String,
    },
    /// Anything else.
    #[error("{action} a probe object at {destination}: {fault}")]
    Other {
        /// What was tried.
        action: &'static str,
        /// Destination id.
        destination: String,
        /// What came back.
        fault: Fault,
    },
    /// A mistake in the program.
    #[error(transparent)]
    Key(#[from] DestinationError),
}

impl ProbeError {
    /// Whether waiting may help.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unreachable { .. } => Verdict::Retry,
            Self::Other { fault, .. } => fault.verdict(),
            Self::MissingBucket { .. } | Self::Credentials { .. } | Self::NotAllowed { .. } => Verdict::Refused,
            Self::Unsuitable { .. } => Verdict::Refused,
            Self::Key(_) => Verdict::Stop,
        }
    }
}

impl ProbeError {
    /// Whether a put that failed like this may be there nevertheless.
    fn may_have_happened(&self) -> bool {
        match self {
            Self::Unreachable { fault, .. } | Self::Other { fault, .. } => fault.may_have_happened(),
            Self::MissingBucket { .. }
            | Self::Credentials { .. }
            | Self::NotAllowed { .. }
            | Self::Unsuitable { .. }
            | Self::Key(_) => false,
        }
    }
}

/// Folder of probe objects.
const PROBE_FOLDER: &str = "_siltstone/probe";

/// Name of the probe object that processes share when they start.
const START_NAME: &str = "start";

/// Most tries to delete a probe object.
const DELETES_MAX: u32 = 5;
/// Before the second one; twice as long before each one after it.
const DELETE_PAUSE: Duration = Duration::from_millis(100);

/// What every probe object holds. Never change it: a later release finds what an earlier one put.
const TEXT: &str = "siltstone was here to see whether it can work; delete this at any time\n";

/// Any name will do that two processes do not share: it decides nothing.
fn unshared_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

impl Bucket {
    /// Puts, reads, lists and deletes an object, and leaves nothing behind: what was put may be there also where the answer says
    /// that it is not.
    ///
    /// # Errors
    /// [`ProbeError`], each with what to do.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let path = self.probe_path(&unshared_name())?;
        let checked = match self.put_probe(&path, PutMode::Overwrite).await {
            Ok(()) => self.check_probe(&path).await,
            Err(error) if error.may_have_happened() => Err(error),
            Err(error) => return Err(error),
        };
        checked.and(self.delete_probe(&path).await)
    }

    /// The same for a process that starts: puts, reads and lists the object that all processes share, deletes nothing.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub async fn probe_for_start(&self) -> Result<(), ProbeError> {
        // A write-once bucket takes it once, and only if absent.
        let mode = if self.destination.conditional_put() { PutMode::Create } else { PutMode::Overwrite };
        let mut path = self.probe_path(START_NAME)?;
        match self.put_probe(&path, mode.clone()).await {
            // No right to write, or a write-once bucket that says so to a write over what is there: a new name tells.
            Err(ProbeError::NotAllowed { .. }) => {
                path = self.probe_path(&unshared_name())?;
                self.put_probe(&path, mode).await?;
            }
            put => put?,
        }
        self.check_probe(&path).await
    }

    fn probe_path(&self, name: &str) -> Result<Path, ProbeError> {
        Ok(self.destination.path(&format!("{PROBE_FOLDER}/{name}"))?)
    }

    /// Puts a probe object, or finds that it is there already.
    async fn put_probe(&self, path: &Path, mode: PutMode) -> Result<(), ProbeError> {
        let create = mode == PutMode::Create;
        let store = self.destination.store();
        match requests::put(Effect::ProbePut, store, path, TEXT.into(), mode.into()).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) if create => Ok(()),
            Err(error) if Fault::of(&error).kind == FaultKind::Unsupported => Err(self.cannot_create()),
            Err(error) => Err(self.probe_error("put", &error)),
        }
    }

    async fn check_probe(&self, path: &Path) -> Result<(), ProbeError> {
        let store = self.destination.store();
        let folder = self.destination.path(PROBE_FOLDER)?;
        let read = async { store.get(path).await?.bytes().await };
        if read.await.map_err(|error| self.probe_error("get", &error))? != TEXT.as_bytes() {
            return Err(self.unsuitable("what was put there was read back as something else"));
        }
        let listed: Vec<_> =
            store.list(Some(&folder)).try_collect().await.map_err(|error| self.probe_error("list", &error))?;
        if !listed.iter().any(|object| object.location == *path) {
            return Err(self.unsuitable("a listing does not show what was just put there"));
        }
        if !self.destination.conditional_put() {
            return Ok(());
        }
        match requests::put(Effect::ProbePut, store, path, TEXT.into(), PutMode::Create.into()).await {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Ok(_) => Err(self.unsuitable(
                "it replaces an object that should be created only if absent; set conditional_put = false",
            )),
            Err(error) if Fault::of(&error).kind == FaultKind::Unsupported => Err(self.cannot_create()),
            Err(error) => Err(self.probe_error("put", &error)),
        }
    }

    /// Deletes a probe object, or finds that it is gone. Tried more than once: nobody else ever deletes it.
    async fn delete_probe(&self, path: &Path) -> Result<(), ProbeError> {
        let mut pause = DELETE_PAUSE;
        let mut left = DELETES_MAX;
        loop {
            left -= 1;
            let error = match requests::delete(Effect::ProbeDelete, self.destination.store(), path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
                Err(error) => self.probe_error("delete", &error),
            };
            if left == 0 || error.verdict() != Verdict::Retry {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    fn cannot_create(&self) -> ProbeError {
        self.unsuitable("it cannot create an object only if absent; set conditional_put = false")
    }

    fn unsuitable(&self, what: &str) -> ProbeError {
        ProbeError::Unsuitable { destination: self.destination.id().to_string(), what: what.to_string() }
    }

    fn probe_error(&self, action: &'static str, error: &object_store::Error) -> ProbeError {
        let destination = self.destination.id().to_string();
        let fault = Fault::of(error);
        match fault.kind {
            // Nothing that is there can be in the way of a put over it: the store is busy with the same place.
            FaultKind::Exists if action == "put" => ProbeError::Other { action, destination, fault: fault.passing() },
            // Refused as existing a moment ago: another process is just putting the same.
            FaultKind::NotFound if action == "get" && !fault.bucket_is_missing() => {
                ProbeError::Other { action, destination, fault: fault.passing() }
            }
            // Only a missing bucket makes a put, or a listing, "not found".
            FaultKind::NotFound if action == "put" || action == "list" => {
                ProbeError::MissingBucket { destination, fault }
            }
            FaultKind::Login | FaultKind::NoIdentity => ProbeError::Credentials { destination, fault },
            FaultKind::Denied => ProbeError::NotAllowed { action, destination, fault },
            FaultKind::Unreachable | FaultKind::Interrupted => {
                let endpoint = self
                    .destination
                    .endpoint()
                    .unwrap_or("the cloud's own endpoint, or the one that the environment names")
                    .to_string();
                ProbeError::Unreachable { destination, endpoint, fault }
            }
            FaultKind::NotFound
            | FaultKind::Exists
            | FaultKind::Busy
            | FaultKind::Damaged
            | FaultKind::Full
            | FaultKind::Unsupported
            | FaultKind::Invalid
            | FaultKind::Other => ProbeError::Other { action, destination, fault },
        }
    }
}
