//! The new file of a group: objects copied into the spool, one written of their rows, and proven; then put.

use super::plan::Planned;
use super::proof::{RowsOf, prove};
use super::rewrite::{Rewriting, Trouble};
use super::work::{Compactor, Work, store_failure};
use crate::bucket::compactions::{Compaction, Group, Input, Proof, ProofBy, To};
use crate::destination::{Destination, StoreKind};
use crate::effect::{Effect, files};
use crate::exit::{Exit, Failure};
use crate::format::{Format, content_headers};
use crate::layout::window::compaction_key;
use crate::layout::{Layout, OutputFormat, SchemaSource};
use crate::ledger::Site;
use crate::pipeline::start::{chain, patiently};
use crate::reader::rows::Place;
use crate::reader::shape::Shape;
use crate::record::{OffsetRange, TopicPartition};
use crate::spool::BatchDir;
use crate::spool::part::Finished;
use crate::upload::{How, Look, PutRule, UploadFile, hex, put_file};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of an object that are written to the spool at once.
const PIECE_BYTES: usize = 1 << 20;

/// A new file that is proven, and not yet anywhere else.
pub(super) struct Made {
    pub(super) group: Group,
    pub(super) file: Finished,
    pub(super) format: Arc<dyn Format>,
    /// Holds the file.
    pub(super) _dir: Arc<BatchDir>,
}

/// What a group is made of.
pub(super) struct Source<'g> {
    pub(super) partition: &'g TopicPartition,
    pub(super) output: &'g str,
    pub(super) layout: &'g Layout,
    pub(super) inputs: &'g [Input],
    pub(super) destinations: &'g [String],
    pub(super) range: OffsetRange,
    pub(super) target: Option<&'g str>,
    pub(super) to: Option<To>,
    pub(super) by: ProofBy,
}

/// The outputs that JSON lines may become like, the best one first: the archive's first Parquet output with the columns that it declares, without them,
/// or what is usual where it has none.
fn likes(to: Option<To>, layout: &Layout) -> Vec<Option<OutputFormat>> {
    let parquet =
        layout.outputs.iter().map(|output| &output.format).find(|of| matches!(of, OutputFormat::Parquet { .. }));
    let Some(own) = parquet.filter(|_| to == Some(To::Parquet)) else { return vec![None] };
    let mut inferred = own.clone();
    if let OutputFormat::Parquet { schema, .. } = &mut inferred {
        *schema = SchemaSource::Infer;
    }
    match own.schema() {
        Some(SchemaSource::Columns(_)) => vec![Some(own.clone()), Some(inferred)],
        _ => vec![Some(inferred)],
    }
}

impl Compactor<'_> {
    /// Makes and proves the new file of a group. The inner error: why its objects are left as they are.
    pub(super) async fn make(
        &mut self,
        work: &mut Work<'_, '_>,
        partition: &TopicPartition,
        (output, n): (&str, u32),
        planned: Planned,
    ) -> Result<Result<Made, String>, Failure> {
        let Planned { candidates, to } = planned;
        let Some(first) = candidates.first().cloned() else {
            return Ok(Err("there is nothing to compact".to_string()));
        };
        let layout = match self.layout(work, &first.fingerprint).await? {
            Ok(layout) => layout,
            Err(why) => return Ok(Err(why)),
        };
        let names = match work.names.get(&(first.fingerprint.clone(), output.to_string())) {
            Some(Ok(names)) => names.clone(),
            _ => return Ok(Err("its names cannot be read".to_string())),
        };
        let batches: Vec<(i64, i64)> = candidates.iter().flat_map(|candidate| candidate.batches.clone()).collect();
        let last = candidates.last().map_or(first.input.end, |last| last.input.end);
        let range = OffsetRange::new(first.input.first, last);
        let extension = match to {
            Some(To::Parquet) => "parquet".to_string(),
            None => names.extension.clone(),
        };
        let key = names.recogniser.with_range(&first.input.key, range);
        let Some(key) = key.and_then(|key| compaction_key(&key, &names.extension, &extension, n)) else {
            return Ok(Err(format!("the name of {} has no room for \"+compact-{n}\"", first.input.key)));
        };
        let by = match (to, self.options.nulls_as_missing) {
            (None, _) => ProofBy::Bytes,
            (Some(To::Parquet), false) => ProofBy::Values,
            (Some(To::Parquet), true) => ProofBy::ValuesWithoutNulls,
        };
        let sum = |of: &dyn Fn(&super::unit::Candidate) -> Option<u64>| candidates.iter().map(of).sum::<Option<u64>>();
        let rows = sum(&|candidate| Some(candidate.input.rows)).unwrap_or_default();
        let records = sum(&|candidate| candidate.records);
        let event_min_ms = candidates.iter().filter_map(|candidate| candidate.event_min_ms).min();
        let event_max_ms = candidates.iter().filter_map(|candidate| candidate.event_max_ms).max();
        let inputs: Vec<Input> = candidates.into_iter().map(|candidate| candidate.input).collect();
        let source = Source {
            partition,
            output,
            layout: &layout,
            inputs: &inputs,
            destinations: &first.destinations,
            range,
            target: first.target.as_deref(),
            to,
            by,
        };
        let (file, format, proof, dir) = match self.write_and_prove(source).await {
            Ok(written) => written,
            Err(Trouble::Left(why)) => return Ok(Err(why)),
            Err(Trouble::Failed(failure)) => return Err(failure),
        };
        let group = Group {
            destinations: first.destinations,
            fingerprint: first.fingerprint,
            schema: first.schema,
            target: first.target,
            to,
            inputs,
            batches,
            key,
            records,
            rows,
            bytes: file.bytes,
            sha256: hex(&file.sha256),
            event_min_ms,
            event_max_ms,
            proof,
        };
        Ok(Ok(Made { group, file, format, _dir: dir }))
    }

    /// Copies the objects into the spool, writes one of their rows, and compares these.
    pub(super) async fn write_and_prove(
        &mut self,
        source: Source<'_>,
    ) -> Result<(Finished, Arc<dyn Format>, Proof, Arc<BatchDir>), Trouble> {
        let found = source.layout.outputs.iter().find(|output| output.name == source.output);
        let output = found.ok_or_else(|| Trouble::Left(format!("its layout has no output {}", source.output)))?.clone();
        let is_json = matches!(output.format, OutputFormat::Json { .. });
        let shape = |to: Option<To>| {
            let shape = Shape::of(source.layout, source.output, None).map_err(Trouble::Left)?;
            Ok::<_, Trouble>(Arc::new(if to.is_some() { shape.as_parquet() } else { shape }))
        };
        if source.to.is_some() && !is_json {
            return Err(Trouble::Left("only JSON lines become Parquet".to_string()));
        }
        let (of_inputs, of_object) = (shape(None)?, shape(source.to)?);
        let dir = self.spool.batch_dir().map_err(|error| local("make a folder in the spool", &error))?;
        let mut copies: Vec<PathBuf> = Vec::new();
        for (number, input) in source.inputs.iter().enumerate() {
            let path = dir.file(&format!("{number:06}.input"));
            self.fetch(input, source.destinations, &path, &dir).await?;
            copies.push(path);
        }
        let likes = likes(source.to, source.layout);
        let last = likes.len() - 1;
        let mut made = None;
        for (number, like) in likes.into_iter().enumerate() {
            let rewriting = Rewriting {
                output: output.clone(),
                to: source.to,
                inputs: copies.clone(),
                metadata: file_metadata(&source),
                dir: dir.clone(),
                number,
                like,
            };
            match self.rewritten(rewriting, &source, (&copies, &of_inputs, &of_object)).await {
                // Declared columns that do not hold these rows are no reason to leave them as they are.
                Err(Trouble::Left(why)) if number < last => tracing::debug!("columns are inferred: {why}"),
                Err(trouble) => return Err(trouble),
                Ok(done) => {
                    made = Some(done);
                    break;
                }
            }
        }
        let Some((file, format, proof)) = made else {
            return Err(Trouble::Left("there is no way to write it".to_string()));
        };
        for (path, input) in copies.iter().zip(source.inputs) {
            files::remove(Effect::InputRemove, path)?;
            dir.subtract(input.bytes);
        }
        Ok((file, format, proof, dir))
    }

    /// Writes one file of the copies' rows, and compares these.
    async fn rewritten(
        &self,
        rewriting: Rewriting,
        source: &Source<'_>,
        (copies, of_inputs, of_object): (&[PathBuf], &Arc<Shape>, &Arc<Shape>),
    ) -> Result<(Finished, Arc<dyn Format>, Proof), Trouble> {
        let dir = rewriting.dir.clone();
        let written = tokio::task::spawn_blocking(move || rewriting.write()).await;
        let written = written.map_err(|error| Failure::new(Exit::Failed, format!("write the new file: {error}")))??;
        let in_spool = spool_destination(&dir)?;
        let place = |path: &PathBuf, rows: Option<u64>| Place {
            key: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            destinations: vec![in_spool.clone()],
            rows,
        };
        let rows: u64 = source.inputs.iter().map(|input| input.rows).sum();
        let inputs = copies.iter().zip(source.inputs).map(|(path, input)| place(path, Some(input.rows))).collect();
        let object = vec![place(&written.file.path, Some(rows))];
        let proven =
            prove(RowsOf::new(inputs, of_inputs.clone()), RowsOf::new(object, of_object.clone()), source.by).await;
        match proven {
            Ok(Ok(proof)) => Ok((written.file, written.format, proof)),
            Ok(Err(why)) => Err(Trouble::Left(why)),
            // A file of the spool that is not what it should be: the objects stay as they are.
            Err(failure) if failure.exit == Exit::Stopped => Err(Trouble::Left(failure.message)),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Copies an object into the spool, and compares size and SHA-256 with its receipt.
    async fn fetch(&self, input: &Input, ids: &[String], path: &Path, dir: &BatchDir) -> Result<(), Trouble> {
        let known: Vec<&Arc<Destination>> = ids.iter().filter_map(|id| self.destinations.get(id)).collect();
        if known.len() < ids.len() {
            let ids = ids.join(", ");
            return Err(Trouble::Left(format!(
                "{} lies at {ids}: this configuration does not have all of them",
                input.key
            )));
        }
        let at = known[0];
        let what = format!("read {}/{}", at.id(), input.key);
        let location = at.path(&input.key).map_err(|error| Trouble::Left(error.to_string()))?;
        let mut kept = 0;
        let read = || async { at.store().get(&location).await };
        let mut stream = match read().await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Err(Trouble::Left(format!("{what}: it is not there"))),
            Err(error) => return Err(store_failure(&what, &error).into()),
        };
        let (mut hash, mut piece) = (Sha256::new(), Vec::new());
        loop {
            let next = stream.try_next().await.map_err(|error| store_failure(&what, &error))?;
            let is_end = next.is_none();
            piece.extend_from_slice(&next.unwrap_or_default());
            if piece.len() >= PIECE_BYTES || is_end {
                hash.update(&piece);
                files::append(Effect::InputAppend, path, Some(kept), &piece)?;
                kept += piece.len() as u64;
                dir.add(piece.len() as u64);
                piece.clear();
            }
            if kept > input.bytes || is_end {
                break;
            }
        }
        let sha256 = hex(&hash.finalize());
        if (kept, &sha256) != (input.bytes, &input.sha256) {
            return Err(Trouble::Left(format!(
                "{what}: it is not what its receipt says ({kept} bytes, SHA-256 {sha256}): siltstone verify --deep"
            )));
        }
        Ok(())
    }

    /// Puts a new file at all destinations of its group. `is_new`: nobody can have put it before.
    pub(super) async fn upload(
        &self,
        site: &Site<'_>,
        claim: &Compaction,
        made: &Made,
        is_new: bool,
    ) -> Result<(), Failure> {
        let Made { group, file, format, .. } = made;
        let (content_type, content_encoding) = content_headers(&**format, site.archive.content_encoding);
        let (range, counting) = (group.range(), format.clone());
        let metadata = [
            ("topic", claim.topic.clone()),
            ("partition", claim.partition.to_string()),
            ("first", range.first.to_string()),
            ("end", range.end.to_string()),
            ("layout", group.fingerprint.clone()),
            ("compaction", format!("{}.{}", claim.unit, claim.n)),
        ];
        let upload = UploadFile {
            path: file.path.clone(),
            key: group.key.clone(),
            bytes: file.bytes,
            sha256: file.sha256,
            records: group.rows,
            content_type: content_type.to_string(),
            content_encoding: content_encoding.map(str::to_string),
            metadata: metadata.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
            rule: if is_new { PutRule::ReplaceUntold } else { PutRule::KeepUntold },
            count: Arc::new(move |file| counting.count_rows(file)),
            check_existing: !is_new,
            // The old objects are deleted on its word.
            look: Look::Bytes,
        };
        for id in &group.destinations {
            let destination = self.destination(id)?;
            let placed = patiently(&*self.clock, "upload", || put_file(destination, &upload, self.settings)).await?;
            if placed.how == How::Kept && placed.sha256.as_deref() != Some(group.sha256.as_str()) {
                let what = format!(
                    "{} at {id} is another object than the one of this compaction, and was kept: somebody else put it. Move it away and \
                     compact again",
                    group.key
                );
                return Err(Failure::new(Exit::Stopped, what));
            }
        }
        Ok(())
    }
}

/// What a Parquet file says in itself of what it holds.
fn file_metadata(source: &Source<'_>) -> Vec<(String, String)> {
    let pairs = [
        ("siltstone.topic", source.partition.topic.to_string()),
        ("siltstone.partition", source.partition.partition.to_string()),
        ("siltstone.first", source.range.first.to_string()),
        ("siltstone.end", source.range.end.to_string()),
    ];
    let target = source.target.map(|target| ("siltstone.schema", target.to_string()));
    pairs.into_iter().chain(target).map(|(name, value)| (name.to_string(), value)).collect()
}

/// The folder of a batch, as a place that objects are read from.
fn spool_destination(dir: &BatchDir) -> Result<Arc<Destination>, Failure> {
    let folder = dir.file("");
    let store = LocalFileSystem::new_with_prefix(&folder);
    let store = store.map_err(|error| local("read the spool", &error))?;
    Ok(Arc::new(Destination::from_store("spool", "the spool", Arc::new(store), StoreKind::File)))
}

fn local(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{what}: {}", chain(error)))
}
