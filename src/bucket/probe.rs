//! Proves at start, and in `check --connect`, that a destination can be worked with; if not, says what to do.
//!
//! Puts, reads, lists and deletes one object of its own under `_siltstone/probe/`. Changes nothing else.

use super::{Bucket, CONTROL_FOLDER};
use crate::destination::DestinationError;
use crate::destination::fault::{Fault, FaultKind, Verdict};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};
use std::hash::{BuildHasher, Hasher, RandomState};

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

const TEXT: &str = "siltstone was here to see whether it can work; delete this at any time\n";

impl Bucket {
    /// See the module.
    ///
    /// # Errors
    /// [`ProbeError`], each with what to do.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        self.probe_as(true).await
    }

    /// The same for a process that starts: archiving itself deletes nothing, so the right to delete may be missing.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub async fn probe_without_delete(&self) -> Result<(), ProbeError> {
        self.probe_as(false).await
    }

    async fn probe_as(&self, must_delete: bool) -> Result<(), ProbeError> {
        let folder = format!("{CONTROL_FOLDER}/probe");
        // Any name will do that two processes do not share: it decides nothing.
        let name = format!("{:016x}", RandomState::new().build_hasher().finish());
        let path = self.destination.path(&format!("{folder}/{name}"))?;
        let folder = self.destination.path(&folder)?;
        let store = self.destination.store();
        let put = store.put_opts(&path, TEXT.into(), PutMode::Overwrite.into()).await;
        put.map_err(|error| self.probe_error("put", &error))?;
        let checked = self.check_probe(&path, &folder).await;
        let deleted = store.delete(&path).await.map_err(|error| self.probe_error("delete", &error));
        checked.and(if must_delete { deleted } else { Ok(()) })
    }

    async fn check_probe(&self, path: &Path, folder: &Path) -> Result<(), ProbeError> {
        let store = self.destination.store();
        let read = async { store.get(path).await?.bytes().await };
        if read.await.map_err(|error| self.probe_error("get", &error))? != TEXT.as_bytes() {
            return Err(self.unsuitable("what was put there was read back as something else"));
        }
        let listed: Vec<_> =
            store.list(Some(folder)).try_collect().await.map_err(|error| self.probe_error("list", &error))?;
        if !listed.iter().any(|object| object.location == *path) {
            return Err(self.unsuitable("a listing does not show what was just put there"));
        }
        if !self.destination.conditional_put() {
            return Ok(());
        }
        match store.put_opts(path, TEXT.into(), PutMode::Create.into()).await {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Ok(_) => Err(self.unsuitable(
                "it replaces an object that should be created only if absent; set conditional_put = false",
            )),
            Err(error) if Fault::of(&error).kind == FaultKind::Unsupported => {
                Err(self.unsuitable("it cannot create an object only if absent; set conditional_put = false"))
            }
            Err(error) => Err(self.probe_error("put", &error)),
        }
    }

    fn unsuitable(&self, what: &str) -> ProbeError {
        ProbeError::Unsuitable { destination: self.destination.id().to_string(), what: what.to_string() }
    }

    fn probe_error(&self, action: &'static str, error: &object_store::Error) -> ProbeError {
        let destination = self.destination.id().to_string();
        let fault = Fault::of(error);
        match fault.kind {
            // Only a missing bucket makes a put, or a listing, "not found".
            FaultKind::NotFound if action == "put" || action == "list" => {
                ProbeError::MissingBucket { destination, fault }
            }
            FaultKind::Login | FaultKind::NoIdentity => ProbeError::Credentials { destination, fault },
            FaultKind::Denied => ProbeError::NotAllowed { action, destination, fault },
            FaultKind::Unreachable | FaultKind::Interrupted => {
                let endpoint = self.destination.endpoint().unwrap_or("the cloud's own endpoint").to_string();
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
