//! What the demo shows at the end: the tree of objects, a few rows, and the balance counted by reading them back.

use super::{explain, failed};
use crate::exit::Failure;
use flate2::read::MultiGzDecoder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Sample rows shown.
const SAMPLE_ROWS: usize = 3;

/// One folder's objects.
#[derive(Default)]
struct Folder {
    objects: u64,
    bytes: u64,
    rows: u64,
}

/// Shows the tree, a sample and the balance.
///
/// # Errors
/// An object that cannot be read, or a balance that is not even: then the demo has failed.
pub(super) fn show(root: &Path, produced: u64, out: &mut dyn Write) -> Result<(), Failure> {
    let mut folders: BTreeMap<String, Folder> = BTreeMap::new();
    let mut seen = vec![0_u8; usize::try_from(produced).unwrap_or(0)];
    let mut parquet_seen = vec![0_u8; seen.len()];
    let mut sample = Vec::new();
    let mut receipts = 0_u64;
    for path in files(root)? {
        let relative = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if relative.starts_with("_siltstone/receipts/") && relative.ends_with(".json") {
            receipts += 1;
        }
        if relative.starts_with('_') {
            continue;
        }
        let folder = folders.entry(relative.rsplit_once('/').map_or("", |(folder, _)| folder).to_string()).or_default();
        folder.objects += 1;
        folder.bytes += fs::metadata(&path).map_err(|error| explain(&relative, &error))?.len();
        folder.rows += if relative.ends_with(".parquet") {
            count_parquet(&path, &mut parquet_seen)?
        } else {
            count_json(&path, &mut seen, &mut sample)?
        };
    }
    let print =
        |out: &mut dyn Write, text: String| writeln!(out, "{text}").map_err(|error| failed(format!("write: {error}")));
    for (name, folder) in &folders {
        print(
            out,
            format!("  {name}/  {:>3} objects  {:>8} rows  {:>9} bytes", folder.objects, folder.rows, folder.bytes),
        )?;
    }
    print(out, format!("  _siltstone/  {receipts} receipts, beside claims, layouts and the pinned schema"))?;
    print(out, "\nA few rows, as they came in:\n".to_string())?;
    for row in &sample {
        print(out, format!("  {row}"))?;
    }
    print(out, "\nThe balance, counted by reading the objects back:\n".to_string())?;
    let mut even = true;
    for (name, seen) in [("gzip JSON", &seen), ("Parquet", &parquet_seen)] {
        let once = seen.iter().filter(|&&times| times == 1).count();
        let lost = seen.iter().filter(|&&times| times == 0).count();
        let twice = seen.len() - once - lost;
        even &= lost == 0 && twice == 0;
        print(
            out,
            format!("  {name:<10} produced {produced}, archived once {once}, lost {lost}, archived twice {twice}"),
        )?;
    }
    if !even {
        return Err(failed("the balance is not even: this is a bug, please report it"));
    }
    Ok(())
}

/// Every file below `root`, in a stable order.
fn files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| explain(&folder.display().to_string(), &error))? {
            let path = entry.map_err(|error| explain(&folder.display().to_string(), &error))?.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

fn mark(seen: &mut [u8], id: Option<u64>, path: &Path) -> Result<(), Failure> {
    let slot = id.and_then(|id| seen.get_mut(usize::try_from(id).ok()?));
    let slot = slot.ok_or_else(|| failed(format!("{} holds a row that was never produced", path.display())))?;
    *slot = slot.saturating_add(1);
    Ok(())
}

fn count_json(path: &Path, seen: &mut [u8], sample: &mut Vec<String>) -> Result<u64, Failure> {
    let file = File::open(path).map_err(|error| explain(&path.display().to_string(), &error))?;
    let mut rows = 0;
    for line in BufReader::new(MultiGzDecoder::new(file)).lines() {
        let line = line.map_err(|error| explain(&path.display().to_string(), &error))?;
        let value: Value = serde_json::from_str(&line).map_err(|error| explain(&path.display().to_string(), &error))?;
        mark(seen, value["id"].as_u64(), path)?;
        if rows == 0 && sample.len() < SAMPLE_ROWS {
            sample.push(line);
        }
        rows += 1;
    }
    Ok(rows)
}

fn count_parquet(path: &Path, seen: &mut [u8]) -> Result<u64, Failure> {
    let read = |error: &dyn std::error::Error| explain(&path.display().to_string(), error);
    let file = File::open(path).map_err(|error| read(&error))?;
    let reader = SerializedFileReader::new(file).map_err(|error| read(&error))?;
    let mut rows = 0;
    for row in reader.get_row_iter(None).map_err(|error| read(&error))? {
        let row = row.map_err(|error| read(&error))?;
        let id = row.get_column_iter().find(|(name, _)| *name == "id").and_then(|(_, field)| match field {
            parquet::record::Field::Long(id) => u64::try_from(*id).ok(),
            _ => None,
        });
        mark(seen, id, path)?;
        rows += 1;
    }
    Ok(rows)
}

/// What to try after the demo.
///
/// # Errors
/// The terminal is gone.
pub(super) fn what_next(dir: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let dir = dir.display();
    let text = format!(
        "\nWhat next:\n  \
         zcat {dir}/archive/json/access/dt=*/hr=*/*.json.gz | head\n  \
         duckdb -c \"select hr, count(*), sum(bytes) from read_parquet('{dir}/archive/parquet/access/*/*/*.parquet') group by hr order by hr\"\n  \
         cat {dir}/demo.toml          # the configuration; point it at a real Kafka and a real bucket\n  \
         siltstone check -c FILE --connect\n  \
         siltstone run -c FILE\n  \
         siltstone help delivery      # how a record reaches the bucket exactly once\n"
    );
    out.write_all(text.as_bytes()).map_err(|error| failed(format!("write: {error}")))
}
