//! Reads a sealed file piece by piece and notices when it is not the sealed one any more.

use super::{UploadError, UploadFile};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use tokio::runtime::{Handle, RuntimeFlavor};

/// A file that is being read from its begin to its end.
pub(super) struct SealedReader {
    file: File,
    hash: Sha256,
    left: u64,
}

/// What the next read gave.
pub(super) enum Piece {
    /// More of the file. Never empty, and full unless it is the last one.
    Bytes(SealedReader, Bytes),
    /// The file is at its end, and is the sealed one.
    End,
}

impl SealedReader {
    pub(super) async fn open(file: &UploadFile) -> Result<Self, UploadError> {
        let path = file.path.clone();
        let opened = blocking(file, move || File::open(path)).await?;
        Ok(Self { file: opened, hash: Sha256::new(), left: file.bytes })
    }

    /// Reads up to `bytes` more.
    ///
    /// # Errors
    /// [`UploadError::SpoolChanged`] as soon as the file turns out shorter, longer or different;
    /// [`UploadError::SpoolUnreadable`].
    pub(super) async fn next(self, sealed: &UploadFile, bytes: u64) -> Result<Piece, UploadError> {
        let changed =
            |found: String| UploadError::SpoolChanged { path: sealed.path.clone(), sealed_bytes: sealed.bytes, found };
        let wanted = usize::try_from(bytes.min(self.left)).unwrap_or(usize::MAX);
        if wanted == 0 {
            let (hash, longer) = blocking(sealed, move || self.finish()).await?;
            return match (longer, hash == sealed.sha256) {
                (true, _) => Err(changed("it is longer".to_string())),
                (false, false) => Err(changed("its SHA-256 is another".to_string())),
                (false, true) => Ok(Piece::End),
            };
        }
        let before = sealed.bytes - self.left;
        let (reader, piece) = blocking(sealed, move || self.read(wanted)).await?;
        if piece.len() < wanted {
            return Err(changed(format!("it has {} bytes", before + piece.len() as u64)));
        }
        Ok(Piece::Bytes(reader, piece))
    }

    fn read(mut self, wanted: usize) -> io::Result<(Self, Bytes)> {
        let mut piece = Vec::with_capacity(wanted);
        Read::by_ref(&mut self.file).take(wanted as u64).read_to_end(&mut piece)?;
        self.hash.update(&piece);
        self.left -= piece.len() as u64;
        Ok((self, Bytes::from(piece)))
    }

    fn finish(mut self) -> io::Result<([u8; 32], bool)> {
        let longer = self.file.read(&mut [0; 1])? > 0;
        Ok((self.hash.finalize().into(), longer))
    }
}

async fn blocking<T: Send + 'static>(
    file: &UploadFile,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, UploadError> {
    // A runtime of one thread is a test's or the simulation's: read in place, so that the order of things is always the same.
    let in_place = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    let done = if in_place {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done)
    };
    done.map_err(|source| UploadError::SpoolUnreadable { path: file.path.clone(), source })
}

/// The SHA-256 of a stored object.
pub(super) async fn hash_stream(
    mut stream: BoxStream<'static, object_store::Result<Bytes>>,
) -> object_store::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    while let Some(bytes) = stream.try_next().await? {
        hash.update(&bytes);
    }
    Ok(hash.finalize().into())
}
