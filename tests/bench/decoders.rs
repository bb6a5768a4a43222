//! What decoding and encoding alone cost of payloads that are no JSON, and of a transform: the records of `scripts/logs.py` as
//! `tests/proofs/recode.py` writes them, borrowed from the file's bytes straight into Arrow's builders.

use crate::{ARROW_ROWS, Counted, inputs};
use anyhow::{Context, bail};
use arrow_array::builder::{
    Float64Builder, Int64Builder, StringBuilder, StructBuilder, TimestampMicrosecondBuilder, make_builder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use prost_reflect::prost::bytes::Buf;
use prost_reflect::prost::encoding::{decode_key, decode_varint};
use serde::Deserialize;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use vrl::compiler::runtime::Runtime;
use vrl::compiler::state::RuntimeState;
use vrl::compiler::{CompileConfig, TargetValue, TimeZone};
use vrl::value::{Secrets, Value};

/// A record; fields as `recode.py` names and numbers them.
#[derive(Default, Deserialize)]
struct Hit<'a> {
    id: i64,
    time: i64,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    query: &'a str,
    status: i64,
    bytes: i64,
    duration: f64,
    user: Option<&'a str>,
    ip: &'a str,
    referer: &'a str,
    agent: &'a str,
    #[serde(borrow)]
    geo: Geo<'a>,
    trace: &'a str,
}

#[derive(Default, Deserialize)]
struct Geo<'a> {
    country: &'a str,
    city: &'a str,
    lat: f64,
    lon: f64,
}

/// Decodes each file of `folder` that ends in `kind` and encodes it as Parquet with zstd level 3, into nothing.
pub(crate) fn parquet(kind: &str, folder: &Path, row_group_bytes: usize) -> anyhow::Result<()> {
    let mut packed = Packed::default();
    match kind {
        "ltsv" => {
            for path in inputs(folder, kind)? {
                let data = fs::read(&path)?;
                packed.file(lines(&data), ltsv, row_group_bytes)?;
            }
        }
        "avro" => {
            let schema: serde_avro_fast::Schema = fs::read_to_string(folder.join("hit.avsc"))?.parse()?;
            for path in inputs(folder, kind)? {
                let data = fs::read(&path)?;
                let decode = |payload| Ok(serde_avro_fast::from_datum_slice(payload, &schema)?);
                packed.file(framed(&data), decode, row_group_bytes)?;
            }
        }
        "pb" => {
            for path in inputs(folder, kind)? {
                let data = fs::read(&path)?;
                packed.file(framed(&data), protobuf, row_group_bytes)?;
            }
        }
        _ => bail!("{kind}: one of ltsv, avro, pb"),
    }
    println!("records={} packed={}", packed.records, packed.bytes);
    Ok(())
}

/// Runs each line of each *.jsonl file through the program in the file `program`, and compresses what comes out, into nothing.
pub(crate) fn transform(folder: &Path, program: &Path, level: u32) -> anyhow::Result<()> {
    let source = fs::read_to_string(program)?;
    let compiled = vrl::compiler::compile_with_external(
        &source,
        &vrl::stdlib::all(),
        &Default::default(),
        CompileConfig::default(),
    );
    let Ok(compiled) = compiled else { bail!("{} does not compile", program.display()) };
    let zone = TimeZone::Named(chrono_tz::UTC);
    let mut runtime = Runtime::new(RuntimeState::default());
    let (mut records, mut packed) = (0_usize, 0_u64);
    let mut out = Vec::new();
    for path in inputs(folder, "jsonl")? {
        let data = fs::read(&path)?;
        let mut encoder = GzEncoder::new(Counted { bytes: 0 }, flate2::Compression::new(level));
        for line in lines(&data) {
            let value: Value = serde_json::from_slice(line)?;
            let metadata = Value::Object(Default::default());
            let mut target = TargetValue { value, metadata, secrets: Secrets::default() };
            runtime.resolve(&mut target, &compiled.program, &zone).map_err(|error| anyhow::anyhow!("{error}"))?;
            runtime.clear();
            serde_json::to_writer(&mut out, &target.value)?;
            out.push(b'\n');
            encoder.write_all(&out)?;
            out.clear();
            records += 1;
        }
        packed += encoder.finish()?.bytes;
    }
    println!("records={records} packed={packed}");
    Ok(())
}

fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let data = data.strip_suffix(b"\n").unwrap_or(data);
    let mut at = 0;
    let mut ends = memchr::memchr_iter(b'\n', data).chain([data.len()]);
    std::iter::from_fn(move || {
        let end = ends.next()?;
        let line = &data[at..end];
        at = end + 1;
        Some(line)
    })
}

/// Payloads behind their lengths.
fn framed(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        data = rest;
        Some(payload)
    })
}

fn ltsv(line: &[u8]) -> anyhow::Result<Hit<'_>> {
    let mut hit = Hit::default();
    let line = std::str::from_utf8(line)?;
    let mut rest = line;
    loop {
        let end = memchr::memchr(b'\t', rest.as_bytes());
        let field = end.map_or(rest, |end| &rest[..end]);
        let (label, value) = field.split_once(':').context("a field without a label")?;
        match label {
            "id" => hit.id = value.parse()?,
            "time" => hit.time = value.parse()?,
            "method" => hit.method = value,
            "host" => hit.host = value,
            "path" => hit.path = value,
            "query" => hit.query = value,
            "status" => hit.status = value.parse()?,
            "bytes" => hit.bytes = value.parse()?,
            "duration" => hit.duration = value.parse()?,
            "user" => hit.user = (value != "-").then_some(value),
            "ip" => hit.ip = value,
            "referer" => hit.referer = value,
            "agent" => hit.agent = value,
            "geo" => hit.geo = serde_json::from_str(value)?,
            "trace" => hit.trace = value,
            _ => bail!("an unknown label {label}"),
        }
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(hit),
        }
    }
}

fn protobuf(mut data: &[u8]) -> anyhow::Result<Hit<'_>> {
    let mut hit = Hit::default();
    while !data.is_empty() {
        match decode_key(&mut data)?.0 {
            1 => hit.id = decode_varint(&mut data)?.cast_signed(),
            2 => hit.time = decode_varint(&mut data)?.cast_signed(),
            3 => hit.method = text(&mut data)?,
            4 => hit.host = text(&mut data)?,
            5 => hit.path = text(&mut data)?,
            6 => hit.query = text(&mut data)?,
            7 => hit.status = decode_varint(&mut data)?.cast_signed(),
            8 => hit.bytes = decode_varint(&mut data)?.cast_signed(),
            9 => hit.duration = data.try_get_f64_le()?,
            10 => hit.user = Some(text(&mut data)?),
            11 => hit.ip = text(&mut data)?,
            12 => hit.referer = text(&mut data)?,
            13 => hit.agent = text(&mut data)?,
            14 => {
                let mut inner = delimited(&mut data)?;
                while !inner.is_empty() {
                    match decode_key(&mut inner)?.0 {
                        1 => hit.geo.country = text(&mut inner)?,
                        2 => hit.geo.city = text(&mut inner)?,
                        3 => hit.geo.lat = inner.try_get_f64_le()?,
                        4 => hit.geo.lon = inner.try_get_f64_le()?,
                        number => bail!("an unknown field {number} of geo"),
                    }
                }
            }
            15 => hit.trace = text(&mut data)?,
            number => bail!("an unknown field {number}"),
        }
    }
    Ok(hit)
}

fn delimited<'a>(data: &mut &'a [u8]) -> anyhow::Result<&'a [u8]> {
    let length = usize::try_from(decode_varint(data)?)?;
    let (value, rest) = data.split_at_checked(length).context("cut off")?;
    *data = rest;
    Ok(value)
}

fn text<'a>(data: &mut &'a [u8]) -> anyhow::Result<&'a str> {
    Ok(std::str::from_utf8(delimited(data)?)?)
}

/// What was written so far.
#[derive(Default)]
struct Packed {
    records: usize,
    bytes: u64,
}

impl Packed {
    fn file<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a [u8]>,
        decode: impl Fn(&'a [u8]) -> anyhow::Result<Hit<'a>>,
        row_group_bytes: usize,
    ) -> anyhow::Result<()> {
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
        let mut columns = Columns::new();
        let mut writer = ArrowWriter::try_new(Counted { bytes: 0 }, columns.schema.clone(), Some(properties))?;
        let (mut rows, mut in_row_group) = (0, 0);
        for payload in payloads {
            columns.push(&decode(payload)?);
            rows += 1;
            in_row_group += payload.len();
            if rows == ARROW_ROWS {
                writer.write(&columns.batch()?)?;
                self.records += rows;
                rows = 0;
                if in_row_group >= row_group_bytes {
                    writer.flush()?;
                    in_row_group = 0;
                }
            }
        }
        writer.write(&columns.batch()?)?;
        self.records += rows;
        self.bytes += writer.into_inner()?.bytes;
        Ok(())
    }
}

struct Columns {
    schema: Arc<Schema>,
    id: Int64Builder,
    time: TimestampMicrosecondBuilder,
    status: Int64Builder,
    bytes: Int64Builder,
    duration: Float64Builder,
    /// method, host, path, query, user, ip, referer, agent, trace.
    texts: [StringBuilder; 9],
    geo: StructBuilder,
}

impl Columns {
    fn new() -> Self {
        let zone: Arc<str> = "UTC".into();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some(zone.clone()));
        let field = |name: &str, kind: DataType| Field::new(name, kind, true);
        let text = |name: &str| field(name, DataType::Utf8);
        let geo = Fields::from(vec![
            text("country"),
            text("city"),
            field("lat", DataType::Float64),
            field("lon", DataType::Float64),
        ]);
        let schema = Schema::new(vec![
            field("id", DataType::Int64),
            field("time", time),
            text("method"),
            text("host"),
            text("path"),
            text("query"),
            field("status", DataType::Int64),
            field("bytes", DataType::Int64),
            field("duration", DataType::Float64),
            text("ip"),
            text("user"),
            text("referer"),
            text("agent"),
            field("geo", DataType::Struct(geo.clone())),
            text("trace"),
        ]);
        let builders = geo.iter().map(|field| make_builder(field.data_type(), ARROW_ROWS)).collect();
        Self {
            schema: Arc::new(schema),
            id: Int64Builder::new(),
            time: TimestampMicrosecondBuilder::new().with_timezone(zone),
            status: Int64Builder::new(),
            bytes: Int64Builder::new(),
            duration: Float64Builder::new(),
            texts: std::array::from_fn(|_| StringBuilder::new()),
            geo: StructBuilder::new(geo, builders),
        }
    }

    fn push(&mut self, hit: &Hit<'_>) {
        self.id.append_value(hit.id);
        self.time.append_value(hit.time * 1000);
        self.status.append_value(hit.status);
        self.bytes.append_value(hit.bytes);
        self.duration.append_value(hit.duration);
        let values = [
            Some(hit.method),
            Some(hit.host),
            Some(hit.path),
            Some(hit.query),
            hit.user,
            Some(hit.ip),
            Some(hit.referer),
            Some(hit.agent),
            Some(hit.trace),
        ];
        for (builder, value) in self.texts.iter_mut().zip(values) {
            builder.append_option(value);
        }
        for (at, value) in [hit.geo.country, hit.geo.city].into_iter().enumerate() {
            if let Some(builder) = self.geo.field_builder::<StringBuilder>(at) {
                builder.append_value(value);
            }
        }
        for (at, value) in [(2, hit.geo.lat), (3, hit.geo.lon)] {
            if let Some(builder) = self.geo.field_builder::<Float64Builder>(at) {
                builder.append_value(value);
            }
        }
        self.geo.append(true);
    }

    fn batch(&mut self) -> anyhow::Result<RecordBatch> {
        let texts = self.texts.each_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef);
        let [method, host, path, query, user, ip, referer, agent, trace] = texts;
        let columns = vec![
            Arc::new(self.id.finish()) as ArrayRef,
            Arc::new(self.time.finish()),
            method,
            host,
            path,
            query,
            Arc::new(self.status.finish()),
            Arc::new(self.bytes.finish()),
            Arc::new(self.duration.finish()),
            ip,
            user,
            referer,
            agent,
            Arc::new(self.geo.finish()),
            trace,
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}
