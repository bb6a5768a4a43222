//! Reads objects back: their SHA-256, and how many rows they have.
//!
//! Memory for each of [`OBJECTS_MAX`] objects: some pieces of it as the store sends them and what unpacking it takes; of Parquet, which is read
//! a second time by its row groups, one at a time, packed, and of each column some pages unpacked. What the store shows as metadata proves
//! nothing here, and is not looked at.

use super::Counters;
use super::finding::Fault;
use super::listing::failed;
use crate::bucket::compactions::To;
use crate::bucket::receipt::ReceiptObject;
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::format::{count_dead_letters, count_streamed};
use crate::layout::Layout;
use crate::pipeline::archive::DEAD_LETTERS;
use crate::reader::ranges::{Trouble, open_parquet};
use crate::upload::hex;
use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Objects read side by side.
pub(super) const OBJECTS_MAX: usize = 4;
/// Pieces of an object on their way from the store to who counts its rows.
const PIECES_MAX: usize = 4;
/// How often a reading that breaks off begins again.
const TRIES_MAX: usize = 3;

/// What is wrong with `object`, as its bytes tell. One that is not there, or has another size, is told by the listing.
///
/// # Errors
/// A store that refuses or does not answer, several times.
pub(super) async fn check(
    destination: Arc<Destination>,
    object: ReceiptObject,
    (layout, to): (Option<Arc<Layout>>, Option<To>),
    counters: Arc<Counters>,
) -> Result<Vec<Fault>, Failure> {
    let path = destination.path(&object.key).map_err(|error| Failure::new(Exit::Stopped, error.to_string()))?;
    let what = format!("read {}/{}", destination.id(), object.key);
    let mut tries = 0;
    loop {
        tries += 1;
        match read(&destination, &path, &object, (layout.clone(), to), &counters).await {
            Ok(Some(found)) => return Ok(compare(&object, found)),
            Ok(None) | Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) if tries >= TRIES_MAX => return Err(failed(&what, &error)),
            Err(error) => tracing::warn!(tries, "{what}: {error}; reading it again"),
        }
    }
}

/// What was found in an object.
struct Found {
    sha256: String,
    /// `None`: nobody knows how they are counted.
    rows: Option<Result<u64, String>>,
}

fn compare(object: &ReceiptObject, found: Found) -> Vec<Fault> {
    if let Some(expected) = object.sha256.as_ref().filter(|&expected| *expected != found.sha256) {
        // One fault: what its rows are then says nothing more.
        return vec![Fault::Checksum { expected: expected.clone(), found: found.sha256 }];
    }
    match (object.rows, found.rows) {
        (Some(expected), Some(found)) if found != Ok(expected) => vec![Fault::Rows { expected, found }],
        _ => Vec::new(),
    }
}

/// Reads an object once. `None`: it has another size than its receipt says.
async fn read(
    destination: &Destination,
    path: &Path,
    object: &ReceiptObject,
    (layout, to): (Option<Arc<Layout>>, Option<To>),
    counters: &Counters,
) -> Result<Option<Found>, Error> {
    let got = destination.store().get(path).await?;
    if got.meta.size != object.bytes {
        return Ok(None);
    }
    let (pieces, received) = mpsc::channel::<Bytes>(PIECES_MAX);
    let output = object.output.clone();
    let of_layout = layout.clone();
    let counting = tokio::task::spawn_blocking(move || {
        let bytes = Box::new(Pieces { received, piece: Bytes::new(), ended: false });
        // What a compaction made Parquet of is no longer what its layout says.
        count(of_layout.as_deref().filter(|_| to.is_none())?, &output, bytes)
    });
    let (mut stream, mut hash) = (got.into_stream(), Sha256::new());
    let mut is_counted = true;
    while let Some(bytes) = stream.try_next().await? {
        if bytes.is_empty() {
            continue;
        }
        hash.update(&bytes);
        counters.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // Who counts may know enough, or have given up.
        is_counted = is_counted && pieces.send(bytes).await.is_ok();
    }
    // An empty piece is the end: without it the stream has broken off, and what was counted means nothing.
    drop(pieces.send(Bytes::new()).await);
    drop(pieces);
    let counted = counting.await.map_err(|source| Error::JoinError { source })?;
    let sha256 = hex(&hash.finalize());
    let is_parquet = to.is_some() || layout.as_deref().is_some_and(|layout| is_parquet(layout, &object.output));
    let rows = match counted {
        Some(counted) => Some(counted.map_err(|error| error.to_string())),
        // Bytes that are others are told as such.
        None if is_parquet && object.sha256.as_ref().is_none_or(|expected| *expected == sha256) => {
            Some(parquet_rows(destination, path).await?)
        }
        None => None,
    };
    Ok(Some(Found { sha256, rows }))
}

/// Rows of an object of `output`, counted from begin to end; `None`: they are not counted like that, or nobody knows the output.
fn count(layout: &Layout, output: &str, bytes: Box<dyn Read + Send>) -> Option<io::Result<u64>> {
    if output == DEAD_LETTERS {
        return count_dead_letters(layout.dead_letters.format, bytes);
    }
    let output = layout.outputs.iter().find(|known| known.name == output)?;
    count_streamed(&output.format, bytes)
}

fn is_parquet(layout: &Layout, output: &str) -> bool {
    if output == DEAD_LETTERS {
        return layout.dead_letters.extension() == "parquet";
    }
    let output = layout.outputs.iter().find(|known| known.name == output);
    output.is_some_and(|output| output.place.extension(&output.format) == "parquet")
}

/// Rows of a Parquet object, every one of them read.
async fn parquet_rows(destination: &Destination, path: &Path) -> Result<Result<u64, String>, Error> {
    let read = async {
        let mut batches = open_parquet(destination.store(), path.clone()).await?.build()?;
        let mut rows = 0;
        while let Some(batch) = batches.try_next().await? {
            rows += batch.num_rows() as u64;
        }
        Ok(rows)
    };
    match read.await {
        Ok(rows) => Ok(Ok(rows)),
        Err(Trouble::Damaged(what)) => Ok(Err(what)),
        Err(Trouble::Store(error)) => Err(error),
    }
}

/// Pieces of an object as a reader of them.
struct Pieces {
    received: mpsc::Receiver<Bytes>,
    piece: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.received.blocking_recv() {
                Some(piece) if piece.is_empty() => self.ended = true,
                Some(piece) => self.piece = piece,
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
        let count = self.piece.len().min(into.len());
        into[..count].copy_from_slice(&self.piece[..count]);
        self.piece.advance(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::StoreKind;
    use arrow_array::{Int64Array, RecordBatch, StringArray};
    use arrow_schema::{DataType, Field, Schema};
    use object_store::memory::InMemory;
    use parquet::arrow::ArrowWriter;

    /// Goal: of an object that no checksum is known of, damage to a page is found though its footer is as it was.
    #[tokio::test]
    async fn every_row_of_parquet_is_read() {
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, false)];
        let schema = Arc::new(Schema::new(fields));
        let ids = Arc::new(Int64Array::from_iter_values(0..1_000));
        let texts = Arc::new(StringArray::from_iter_values((0..1_000).map(|id| format!("text {}", id * 7919 % 1_000))));
        let batch = RecordBatch::try_new(schema.clone(), vec![ids, texts]).expect("a batch");
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).expect("a writer");
        writer.write(&batch).expect("written");
        let bytes = writer.into_inner().expect("closed");
        let store = Arc::new(InMemory::new());
        let destination = Arc::new(Destination::from_store("main", "s3://b/p", store, StoreKind::Memory));
        let object = ReceiptObject {
            output: "json".into(),
            destination: "s3://b/p".into(),
            key: "x.parquet".into(),
            folder: String::new(),
            records: None,
            rows: Some(1_000),
            bytes: bytes.len() as u64,
            sha256: None,
            event_min_ms: None,
            event_max_ms: None,
            kept: None,
        };
        let path = destination.path(&object.key).expect("a path");
        let faults = async |bytes: Vec<u8>| {
            destination.store().put(&path, bytes.into()).await.expect("put");
            let of = (None, Some(To::Parquet));
            check(destination.clone(), object.clone(), of, Arc::default()).await.expect("read")
        };
        assert_eq!(faults(bytes.clone()).await, []);
        let mut damaged = bytes.clone();
        // The header of the first page.
        damaged[4..40].fill(0xff);
        let found = faults(damaged).await;
        assert!(matches!(found[..], [Fault::Rows { expected: 1_000, found: Err(_) }]), "{found:?}");
        let mut cut = bytes.clone();
        let end = cut.len();
        cut[end - 4..].fill(0);
        let found = faults(cut).await;
        assert!(matches!(found[..], [Fault::Rows { expected: 1_000, found: Err(_) }]), "{found:?}");
    }
}
