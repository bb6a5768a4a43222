//! Rows in their plain form into arrow's arrays.
//!
//! A column that a row does not name is null there. What is read fits the schema or is an error: no byte of a row is
//! believed, neither a bound nor that text is UTF-8 nor that a required field is there.

use super::row::{Broken, END, NULL, RowReader, VALUE};
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, ListArray, MapArray, PrimitiveArray, StringArray,
    StructArray,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, TimeUnit};
use std::sync::Arc;

/// The columns of some rows in the making.
pub(super) struct Columns {
    columns: Vec<ColumnBuilder>,
    rows: usize,
}

impl Columns {
    /// Empty columns with room for `rows` values each.
    ///
    /// # Errors
    /// A type that no schema here has.
    pub(super) fn new(fields: &Fields, rows: usize) -> Result<Self, String> {
        Ok(Self { columns: builders(fields, rows)?, rows: 0 })
    }

    /// Rows read so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Reads one row.
    ///
    /// # Errors
    /// [`Broken`]: the columns are unusable.
    pub(super) fn read(&mut self, reader: &mut RowReader<'_>) -> Result<(), Broken> {
        read_fields(&mut self.columns, self.rows, reader)?;
        self.rows += 1;
        Ok(())
    }

    /// The arrays of all rows read, one for each field of the schema.
    ///
    /// # Errors
    /// Values that their type does not allow.
    pub(super) fn finish(self) -> Result<Vec<ArrayRef>, ArrowError> {
        let rows = self.rows;
        let finish = |column: ColumnBuilder| {
            let field = Arc::clone(&column.field);
            let array = column.finish(rows)?;
            check_required(&field, array.as_ref())?;
            Ok(array)
        };
        self.columns.into_iter().map(finish).collect()
    }
}

fn builders(fields: &Fields, room: usize) -> Result<Vec<ColumnBuilder>, String> {
    fields.iter().map(|field| ColumnBuilder::new(field, room)).collect()
}

/// Reads the fields of a row or struct, which is value `at` of each column.
#[inline]
fn read_fields(columns: &mut [ColumnBuilder], at: usize, reader: &mut RowReader<'_>) -> Result<(), Broken> {
    while let Some(number) = reader.field()? {
        let column = columns.get_mut(number).ok_or(Broken("a field outside the schema"))?;
        column.read_at(at, reader)?;
    }
    Ok(())
}

struct ColumnBuilder {
    field: FieldRef,
    /// Also counts the values.
    nulls: NullBufferBuilder,
    values: Values,
}

enum Values {
    Bool(BooleanBufferBuilder),
    /// 32 bits: integer or date.
    Four(Vec<i32>),
    /// 64 bits: integer or instant.
    Eight(Vec<i64>),
    Double(Vec<f64>),
    Decimal(Vec<i128>),
    Bytes(Bytes),
    Struct(Vec<ColumnBuilder>),
    List {
        offsets: Vec<i32>,
        elements: Box<ColumnBuilder>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Bytes,
        values: Box<ColumnBuilder>,
    },
}

/// Text or bytes behind each other.
struct Bytes {
    bytes: Vec<u8>,
    offsets: Vec<i32>,
}

impl Bytes {
    fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), offsets: offsets(room) }
    }

    #[inline]
    fn push(&mut self, value: &[u8]) -> Result<(), Broken> {
        self.bytes.extend_from_slice(value);
        self.offsets.push(offset(self.bytes.len())?);
        Ok(())
    }

    /// Adds `count` empty values.
    fn repeat_end(&mut self, count: usize) -> Result<(), Broken> {
        self.offsets.resize(self.offsets.len() + count, offset(self.bytes.len())?);
        Ok(())
    }

    fn buffers(self) -> (OffsetBuffer<i32>, Buffer) {
        (offset_buffer(self.offsets), Buffer::from_vec(self.bytes))
    }
}

fn offsets(room: usize) -> Vec<i32> {
    let mut offsets = Vec::with_capacity(room + 1);
    offsets.push(0);
    offsets
}

#[inline]
fn offset(length: usize) -> Result<i32, Broken> {
    i32::try_from(length).map_err(|_| Broken("more than 2 GiB in one column"))
}

impl ColumnBuilder {
    fn new(field: &FieldRef, room: usize) -> Result<Self, String> {
        let values = match field.data_type() {
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(room)),
            DataType::Int32 | DataType::Date32 => Values::Four(Vec::with_capacity(room)),
            DataType::Int64 | DataType::Timestamp(..) => Values::Eight(Vec::with_capacity(room)),
            DataType::Float64 => Values::Double(Vec::with_capacity(room)),
            DataType::Decimal128(..) => Values::Decimal(Vec::with_capacity(room)),
            DataType::Utf8 | DataType::Binary => Values::Bytes(Bytes::new(room)),
            DataType::Struct(fields) => Values::Struct(builders(fields, room)?),
            DataType::List(element) => {
                Values::List { offsets: offsets(room), elements: Box::new(Self::new(element, 0)?) }
            }
            DataType::Map(entries, _) => {
                let values = Box::new(Self::new(map_values(entries)?, 0)?);
                Values::Map { offsets: offsets(room), keys: Bytes::new(0), values }
            }
            other => return Err(format!("no column has the type {other}")),
        };
        Ok(Self { field: Arc::clone(field), nulls: NullBufferBuilder::new(room), values })
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Reads value `at`; those that were left out before it are null.
    #[inline]
    fn read_at(&mut self, at: usize, reader: &mut RowReader<'_>) -> Result<(), Broken> {
        let len = self.len();
        if len != at {
            if len > at {
                return Err(Broken("a field is there twice"));
            }
            self.fill(at)?;
        }
        self.read(reader)
    }

    /// Reads the next value.
    #[inline]
    fn read(&mut self, reader: &mut RowReader<'_>) -> Result<(), Broken> {
        match &mut self.values {
            Values::Bool(values) => values.append(reader.byte()? != 0),
            Values::Four(values) => values.push(i32::from_le_bytes(reader.fixed()?)),
            Values::Eight(values) => values.push(i64::from_le_bytes(reader.fixed()?)),
            Values::Double(values) => values.push(f64::from_le_bytes(reader.fixed()?)),
            Values::Decimal(values) => values.push(i128::from_le_bytes(reader.fixed()?)),
            Values::Bytes(values) => values.push(reader.bytes()?)?,
            Values::Struct(columns) => read_fields(columns, self.nulls.len(), reader)?,
            Values::List { offsets, elements } => {
                loop {
                    match reader.byte()? {
                        END => break,
                        VALUE => elements.read(reader)?,
                        NULL => elements.push_null()?,
                        _ => return Err(Broken("an element that is neither a value nor null")),
                    }
                }
                offsets.push(offset(elements.len())?);
            }
            Values::Map { offsets, keys, values } => {
                loop {
                    match reader.byte()? {
                        END => break,
                        VALUE => keys.push(reader.bytes()?)?,
                        _ => return Err(Broken("an entry that is none")),
                    }
                    match reader.byte()? {
                        VALUE => values.read(reader)?,
                        NULL => values.push_null()?,
                        _ => return Err(Broken("an entry that is neither a value nor null")),
                    }
                }
                offsets.push(offset(values.len())?);
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) -> Result<(), Broken> {
        self.fill(self.len() + 1)
    }

    /// Adds nulls up to `len` values.
    #[cold]
    fn fill(&mut self, len: usize) -> Result<(), Broken> {
        let missing = len - self.len();
        match &mut self.values {
            Values::Bool(values) => values.append_n(missing, false),
            Values::Four(values) => values.resize(len, 0),
            Values::Eight(values) => values.resize(len, 0),
            Values::Double(values) => values.resize(len, 0.0),
            Values::Decimal(values) => values.resize(len, 0),
            Values::Bytes(values) => values.repeat_end(missing)?,
            // Their fields are filled when one comes, or at the end.
            Values::Struct(_) => {}
            Values::List { offsets, elements } => offsets.resize(len + 1, offset(elements.len())?),
            Values::Map { offsets, values, .. } => offsets.resize(len + 1, offset(values.len())?),
        }
        self.nulls.append_n_nulls(missing);
        Ok(())
    }

    /// The array of `len` values.
    fn finish(mut self, len: usize) -> Result<ArrayRef, ArrowError> {
        if self.len() < len {
            self.fill(len).map_err(|broken| ArrowError::InvalidArgumentError(broken.to_string()))?;
        }
        let nulls = self.nulls.finish();
        let array: ArrayRef = match self.values {
            Values::Bool(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Four(values) if *self.field.data_type() == DataType::Date32 => {
                Arc::new(primitive::<Date32Type>(values, nulls)?)
            }
            Values::Four(values) => Arc::new(primitive::<Int32Type>(values, nulls)?),
            Values::Eight(values) => instants_or_integers(self.field.data_type(), values, nulls)?,
            Values::Double(values) => Arc::new(primitive::<Float64Type>(values, nulls)?),
            Values::Decimal(values) => {
                let array = primitive::<Decimal128Type>(values, nulls)?;
                Arc::new(array.with_data_type(self.field.data_type().clone()))
            }
            Values::Bytes(values) => {
                let (offsets, bytes) = values.buffers();
                match self.field.data_type() {
                    DataType::Utf8 => Arc::new(StringArray::try_new(offsets, bytes, nulls)?),
                    _ => Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?),
                }
            }
            Values::Struct(columns) => {
                let arrays = columns.into_iter().map(|column| column.finish(len)).collect::<Result<Vec<_>, _>>()?;
                let DataType::Struct(fields) = self.field.data_type() else { return Err(no_such_type(&self.field)) };
                Arc::new(StructArray::try_new(fields.clone(), arrays, nulls)?)
            }
            Values::List { offsets, elements } => {
                let DataType::List(element) = self.field.data_type() else { return Err(no_such_type(&self.field)) };
                let count = elements.len();
                let elements = elements.finish(count)?;
                check_required(element, elements.as_ref())?;
                Arc::new(ListArray::try_new(Arc::clone(element), offset_buffer(offsets), elements, nulls)?)
            }
            Values::Map { offsets, keys, values } => {
                let DataType::Map(entries, ordered) = self.field.data_type() else {
                    return Err(no_such_type(&self.field));
                };
                let DataType::Struct(pair) = entries.data_type() else { return Err(no_such_type(&self.field)) };
                let (key_offsets, key_bytes) = keys.buffers();
                let keys: ArrayRef = Arc::new(StringArray::try_new(key_offsets, key_bytes, None)?);
                let count = values.len();
                let pairs = StructArray::try_new(pair.clone(), vec![keys, values.finish(count)?], None)?;
                Arc::new(MapArray::try_new(Arc::clone(entries), offset_buffer(offsets), pairs, nulls, *ordered)?)
            }
        };
        Ok(array)
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> Result<PrimitiveArray<T>, ArrowError> {
    PrimitiveArray::try_new(ScalarBuffer::from(values), nulls)
}

fn instants_or_integers(
    data_type: &DataType,
    values: Vec<i64>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    Ok(match data_type {
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            Arc::new(primitive::<TimestampMillisecondType>(values, nulls)?.with_timezone_opt(zone.clone()))
        }
        DataType::Timestamp(_, zone) => {
            Arc::new(primitive::<TimestampMicrosecondType>(values, nulls)?.with_timezone_opt(zone.clone()))
        }
        _ => Arc::new(primitive::<Int64Type>(values, nulls)?),
    })
}

/// A required column without its value would be written as if it had one.
fn check_required(field: &Field, array: &dyn Array) -> Result<(), ArrowError> {
    if !field.is_nullable() && array.null_count() > 0 {
        return Err(ArrowError::InvalidArgumentError(format!("column {} is required and null", field.name())));
    }
    Ok(())
}

/// Cannot happen: values are made for their type.
fn no_such_type(field: &Field) -> ArrowError {
    ArrowError::InvalidArgumentError(format!("column {} has the type {}", field.name(), field.data_type()))
}

/// The type of a map's values.
fn map_values(entries: &Field) -> Result<&FieldRef, String> {
    match entries.data_type() {
        DataType::Struct(pair) => pair.get(1).ok_or_else(|| "a map without values".to_string()),
        other => Err(format!("a map of {other}")),
    }
}

fn offset_buffer(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}
