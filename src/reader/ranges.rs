//! Parts of objects, for Parquet, and what it means where they cannot be had.

use crate::destination::fault::{Fault, FaultKind, Verdict};
use crate::exit::{Exit, Failure};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

/// Opens a Parquet object: its footer is read. The rows that it then gives are read one row group at a time, whose pages are in memory
/// packed, and of each column one page unpacked.
///
/// # Errors
/// The store refuses or does not answer, or it is no Parquet.
pub async fn open_parquet(
    store: &Arc<dyn ObjectStore>,
    path: Path,
) -> Result<ParquetRecordBatchStreamBuilder<Ranges>, Trouble> {
    // Not every store gives the end of an object without being told where it is.
    let bytes = store.head(&path).await.map_err(Trouble::Store)?.size;
    Ok(ParquetRecordBatchStreamBuilder::new(Ranges { store: store.clone(), path, bytes }).await?)
}

/// An object of which parts are read.
pub struct Ranges {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

/// Why there is nothing more of an object.
#[derive(Debug)]
pub enum Trouble {
    /// It is not what its place says; what is wrong with it.
    Damaged(String),
    /// The store refuses or does not answer.
    Store(object_store::Error),
}

impl From<ParquetError> for Trouble {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(source) => match source.downcast::<object_store::Error>() {
                Ok(error) => Self::Store(*error),
                Err(other) => Self::Damaged(other.to_string()),
            },
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl Trouble {
    /// Whether the object is not there.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Store(error) if Fault::of(error).kind == FaultKind::NotFound)
    }

    /// What it means for whoever reads the object called `name`: [`Exit::Stopped`] where it is gone or damaged.
    pub fn of_object(self, name: &str) -> Failure {
        let error = match self {
            Self::Store(error) => error,
            Self::Damaged(what) => {
                return Failure::new(Exit::Stopped, format!("{name} is damaged: {what}; restore it, or leave it out"));
            }
        };
        let fault = Fault::of(&error);
        if fault.kind == FaultKind::NotFound {
            let what =
                format!("{name} is not there, and its receipt says that it was: restore it, or leave it out ({fault})");
            return Failure::new(Exit::Stopped, what);
        }
        let exit = match fault.verdict() {
            Verdict::Retry => Exit::Unreachable,
            Verdict::Refused => Exit::Refused,
            Verdict::Stop => Exit::Stopped,
        };
        Failure::new(exit, format!("read {name}: {fault}"))
    }
}
