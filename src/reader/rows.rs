//! The rows of one object, streamed.
//!
//! ```text
//! store ──pieces──▶ codec, lines or container blocks (a blocking thread) ──▶ rows
//! store ──ranges──▶ row groups of Parquet ─────────────────────────────────▶ rows
//! ```
//! # Memory
//! An open object holds [`PIECES_MAX`] pieces of what the store sends (some 16 KiB each), [`READ_BYTES`](crate::format::compress) of a few
//! buffers, its codec's window, and up to four batches of at most [`BATCH_BYTES`] and a row. Avro: also a block, packed and unpacked.
//! Parquet: also one row group packed, and a page of each of its columns unpacked.

use super::columns::JsonLines;
use super::ranges::{Trouble, open_parquet};
use super::row::{Body, Row};
use super::shape::{Kind, Shape};
use crate::destination::Destination;
use crate::exit::{Exit, Failure};
use crate::format::dead_letter::{append_letter, columns::letters};
use crate::format::parquet::envelope::read::records;
use crate::format::raw::{next_line, next_payload};
use arrow_avro::reader::ReaderBuilder;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Pieces of an object that wait to be unpacked.
pub const PIECES_MAX: usize = 4;

/// Batches of rows that wait to be taken.
const BATCHES_MAX: usize = 2;

/// Bytes of rows after which a batch is handed on.
pub const BATCH_BYTES: usize = 64 << 10;

/// Rows after which a batch is handed on, and that are made of columns at once.
const BATCH_ROWS: usize = 128;

/// Longest row: far more than Kafka lets a record be.
const ROW_BYTES_MAX: usize = 1 << 30;

/// Where an object lies.
#[derive(Clone)]
pub struct Place {
    /// Its key, the same everywhere.
    pub key: String,
    /// The destinations that have it, the one to read first.
    pub destinations: Vec<Arc<Destination>>,
    /// Rows that its receipt vouches for.
    pub rows: Option<u64>,
}

/// The rows of one object, in the order in which they lie there.
pub struct Rows {
    name: String,
    pieces: mpsc::Receiver<Piece>,
    ready: std::vec::IntoIter<Body>,
    next: u64,
    expected: Option<u64>,
    ended: bool,
    gone: bool,
    reading: AbortHandle,
}

enum Piece {
    Rows(Vec<Body>),
    Failed(Trouble),
    End,
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Rows {
    /// Begins to read the object, in a task of its own: its first rows are underway before anybody asks for them. Where it is gone from
    /// one destination, the next one is asked.
    pub fn start(place: Place, shape: Arc<Shape>) -> Self {
        Self::start_at(place, shape, 0)
    }

    /// The same from row `first` on. Of Parquet, row groups before it are not read; everything else is unpacked from its beginning.
    pub fn start_at(place: Place, shape: Arc<Shape>, first: u64) -> Self {
        let (sink, pieces) = mpsc::channel(BATCHES_MAX);
        let at = place.destinations.first().map_or("no destination", |destination| destination.id());
        let (name, expected) = (format!("{} at {at}", place.key), place.rows);
        let task = tokio::spawn(async move {
            let outlet = Outlet { to: sink.clone(), handed: Arc::new(AtomicU64::new(first)) };
            let last = match read(&place, &shape, &outlet).await {
                Ok(()) => Piece::End,
                Err(trouble) => Piece::Failed(trouble),
            };
            // Nobody wants it any more.
            drop(sink.send(last).await);
        });
        Self {
            name,
            pieces,
            ready: Vec::new().into_iter(),
            next: first,
            expected,
            ended: false,
            gone: false,
            reading: task.abort_handle(),
        }
    }

    /// Whether the last error was that no destination has the object.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// The next row; `None` behind the last one.
    ///
    /// # Errors
    /// [`Exit::Stopped`]: the object is gone, damaged, or holds another number of rows than its receipt says. Else what the store says.
    pub async fn next(&mut self) -> Result<Option<Row>, Failure> {
        loop {
            if let Some(body) = self.ready.next() {
                let index = self.next;
                self.next += 1;
                return Ok(Some(Row { index, body }));
            }
            if self.ended {
                return Ok(None);
            }
            match self.pieces.recv().await {
                Some(Piece::Rows(rows)) => self.ready = rows.into_iter(),
                Some(Piece::Failed(trouble)) => {
                    self.gone = trouble.is_gone();
                    return Err(trouble.of_object(&self.name));
                }
                Some(Piece::End) => {
                    self.ended = true;
                    if let Some(expected) = self.expected.filter(|&expected| expected != self.next) {
                        let what = format!("it holds {} rows, and its receipt says {expected}", self.next);
                        return Err(Trouble::Damaged(what).of_object(&self.name));
                    }
                }
                None => {
                    let what = format!("read {}: it ended in a panic, which is a bug: please report it", self.name);
                    return Err(Failure::new(Exit::Failed, what));
                }
            }
        }
    }
}

/// Where rows go.
#[derive(Clone)]
struct Outlet {
    to: mpsc::Sender<Piece>,
    /// Rows of the object that went there, those among them that were not asked for: whoever goes on begins behind them.
    handed: Arc<AtomicU64>,
}

/// Takes rows; full batches go on.
struct Sink<'s> {
    outlet: &'s Outlet,
    /// So many that come first are left out.
    skip: u64,
    batch: Vec<Body>,
    bytes: usize,
}

/// Nobody wants more rows.
struct Gone;

impl<'s> Sink<'s> {
    fn new(outlet: &'s Outlet, skip: u64) -> Self {
        Self { outlet, skip, batch: Vec::new(), bytes: 0 }
    }

    /// Adds a row, and says whether the batch is full.
    fn add(&mut self, body: Body) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.bytes += body.bytes();
        self.batch.push(body);
        self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_ROWS
    }

    fn take(&mut self) -> Piece {
        self.bytes = 0;
        self.outlet.handed.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        Piece::Rows(std::mem::take(&mut self.batch))
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = self.take();
        self.outlet.to.send(batch).await.map_err(|_| Gone)
    }

    fn flush_blocking(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = self.take();
        self.outlet.to.blocking_send(batch).map_err(|_| Gone)
    }

    fn put_blocking(&mut self, body: Body) -> Result<(), Gone> {
        if self.add(body) { self.flush_blocking() } else { Ok(()) }
    }
}

async fn read(place: &Place, shape: &Arc<Shape>, outlet: &Outlet) -> Result<(), Trouble> {
    let mut missing = Trouble::Damaged("no destination of this configuration has it".to_string());
    for destination in &place.destinations {
        let read = match shape.kind {
            Kind::Lines(_) | Kind::Payloads(..) | Kind::Avro => read_stream(destination, place, shape, outlet).await,
            Kind::Parquet | Kind::Envelope | Kind::DeadLetters => read_parquet(destination, place, shape, outlet).await,
        };
        match read {
            // It may have been deleted while it was read: the next one goes on behind the rows that were handed on.
            Err(trouble) if trouble.is_gone() => missing = trouble,
            other => return other,
        }
    }
    Err(missing)
}

/// Reads what is one stream of bytes: unpacked in a blocking thread, as it costs whole cores.
async fn read_stream(
    destination: &Destination,
    place: &Place,
    shape: &Arc<Shape>,
    outlet: &Outlet,
) -> Result<(), Trouble> {
    let path = destination.path(&place.key).map_err(|error| Trouble::Damaged(error.to_string()))?;
    let mut stream = destination.store().get(&path).await.map_err(Trouble::Store)?.into_stream();
    let (pieces, piped) = mpsc::channel(PIECES_MAX);
    let (shape, outlet) = (shape.clone(), outlet.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut sink = Sink::new(&outlet, outlet.handed.load(Ordering::Relaxed));
        let piped = Piped { pieces: piped, unread: Bytes::new() };
        let unpacked = match shape.kind {
            Kind::Avro => unpack_avro(piped, &shape, &mut sink),
            _ => unpack_text(piped, &shape, &mut sink),
        };
        unpacked.map(|wanted| wanted && sink.flush_blocking().is_ok())
    });
    let mut failed = None;
    loop {
        let piece = match stream.try_next().await {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                Err(())
            }
        };
        if pieces.send(piece).await.is_err() || failed.is_some() {
            break;
        }
    }
    drop(pieces);
    let unpacked = unpacking.await.map_err(|error| Trouble::Damaged(format!("reading it: {error}")))?;
    match failed {
        Some(error) => Err(Trouble::Store(error)),
        None => unpacked.map(|_| ()).map_err(|error| Trouble::Damaged(error.to_string())),
    }
}

/// What the store sends, for readers that block.
struct Piped {
    pieces: mpsc::Receiver<Result<Bytes, ()>>,
    unread: Bytes,
}

impl Read for Piped {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.unread = piece,
                Some(Err(())) => return Err(io::Error::other("the store sends no more")),
            }
        }
        let piece = self.unread.split_to(self.unread.len().min(room.len()));
        room[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

/// Lines and payloads. `false`: nobody wants more of them.
fn unpack_text(piped: Piped, shape: &Shape, sink: &mut Sink<'_>) -> io::Result<bool> {
    let codec = match shape.kind {
        Kind::Lines(codec) | Kind::Payloads(codec, _) => codec,
        _ => return Err(io::Error::other("it is no text")),
    };
    let mut text = codec.lenient_reader(piped)?;
    loop {
        let body = match shape.kind {
            Kind::Payloads(_, newlines) => next_payload(newlines, &mut *text, ROW_BYTES_MAX)?.map(Body::Payload),
            _ => next_line(&mut *text, ROW_BYTES_MAX)?.map(Body::Json),
        };
        let Some(body) = body else { return Ok(true) };
        if sink.put_blocking(body).is_err() {
            return Ok(false);
        }
    }
}

fn unpack_avro(piped: Piped, shape: &Shape, sink: &mut Sink<'_>) -> io::Result<bool> {
    let reader = ReaderBuilder::new().with_batch_size(BATCH_ROWS).build(BufReader::new(piped));
    let reader = reader.map_err(io::Error::other)?;
    let rows = JsonLines::of_avro(reader.schema().fields(), &shape.columns, shape.keep.as_ref());
    for batch in reader {
        for line in rows.lines(&batch.map_err(io::Error::other)?).map_err(io::Error::other)? {
            if sink.put_blocking(Body::Json(line)).is_err() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

async fn read_parquet(destination: &Destination, place: &Place, shape: &Shape, outlet: &Outlet) -> Result<(), Trouble> {
    let path = destination.path(&place.key).map_err(|error| Trouble::Damaged(error.to_string()))?;
    let builder = open_parquet(destination.store(), path).await?;
    let lines = json_lines(&builder, shape);
    let handed = outlet.handed.load(Ordering::Relaxed);
    // Rows that are left out here are not read from the store, where they fill row groups.
    let skip = usize::try_from(handed).unwrap_or(usize::MAX);
    let mut batches = builder.with_batch_size(BATCH_ROWS).with_offset(skip).build()?;
    let mut sink = Sink::new(outlet, 0);
    while let Some(batch) = batches.try_next().await? {
        let bodies: Vec<Body> = match (shape.kind, &lines) {
            (Kind::Envelope, _) => {
                records(&batch).map(|found| found.into_iter().map(|record| Body::Record(Box::new(record))).collect())
            }
            (Kind::DeadLetters, _) => letters(&batch).map(|letters| {
                let line = |letter| {
                    let mut line = Vec::new();
                    append_letter(letter, &mut line);
                    line.pop();
                    Body::Json(line)
                };
                letters.iter().map(line).collect()
            }),
            (_, lines) => lines.lines(&batch).map(|lines| lines.into_iter().map(Body::Json).collect()),
        }
        .map_err(Trouble::Damaged)?;
        for body in bodies {
            if sink.add(body) && sink.flush().await.is_err() {
                return Ok(());
            }
        }
    }
    // Whether anybody still wants them does not matter: they are the last.
    drop(sink.flush().await);
    Ok(())
}

fn json_lines<T>(builder: &ParquetRecordBatchStreamBuilder<T>, shape: &Shape) -> JsonLines {
    let (fields, parquet) = (builder.schema().fields(), builder.parquet_schema());
    match shape.from_lines {
        true => JsonLines::of_lines(fields, parquet),
        false => JsonLines::of_parquet(fields, parquet, shape.keep.as_ref()),
    }
}
