//! Whether a dictionary is worth its while: not for values of which nearly every one is new.
//!
//! A dictionary of such values costs a hash and a copy of each, and the numbers in their place come on top of them.
//! Depends on the values alone (F-2).

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow_schema::{DataType, TimeUnit};

/// Fewest values that say something.
const VALUES_MIN: usize = 256;

/// Bits of the set that values are counted in: 16 times as many as a slice has values at most. Two values in one bit
/// count as one, which of 4096 happens to about 130.
const BITS: usize = 1 << 16;

/// Adds the leaves of `array` to `leaves`, in Parquet's order.
pub(super) fn leaves(array: &ArrayRef, leaves: &mut Vec<ArrayRef>) {
    match array.data_type() {
        DataType::Struct(_) => array.as_struct().columns().iter().for_each(|column| self::leaves(column, leaves)),
        DataType::List(_) => self::leaves(array.as_list::<i32>().values(), leaves),
        DataType::Map(..) => {
            self::leaves(array.as_map().keys(), leaves);
            self::leaves(array.as_map().values(), leaves);
        }
        _ => leaves.push(ArrayRef::clone(array)),
    }
}

/// Whether at least 19 of 20 values seem to be new ones; nulls aside, and never of few values.
pub(super) fn is_nearly_unique(array: &dyn Array) -> bool {
    let mut counted = Counted { set: vec![0; BITS / 64], values: 0, new: 0 };
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().flatten().for_each(|text| counted.add(text.as_bytes())),
        DataType::Binary => array.as_binary::<i32>().iter().flatten().for_each(|bytes| counted.add(bytes)),
        DataType::Int32 => counted.add_all::<Int32Type, 4>(array, i32::to_le_bytes),
        DataType::Date32 => counted.add_all::<Date32Type, 4>(array, i32::to_le_bytes),
        DataType::Int64 => counted.add_all::<Int64Type, 8>(array, i64::to_le_bytes),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            counted.add_all::<TimestampMillisecondType, 8>(array, i64::to_le_bytes);
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            counted.add_all::<TimestampMicrosecondType, 8>(array, i64::to_le_bytes);
        }
        DataType::Float64 => counted.add_all::<Float64Type, 8>(array, f64::to_le_bytes),
        DataType::Decimal128(..) => counted.add_all::<Decimal128Type, 16>(array, i128::to_le_bytes),
        _ => return false,
    }
    counted.values >= VALUES_MIN && counted.new * 20 >= counted.values * 19
}

struct Counted {
    set: Vec<u64>,
    values: usize,
    new: usize,
}

impl Counted {
    fn add_all<T: ArrowPrimitiveType, const N: usize>(&mut self, array: &dyn Array, bytes: fn(T::Native) -> [u8; N]) {
        array.as_primitive::<T>().iter().flatten().for_each(|value| self.add(&bytes(value)));
    }

    fn add(&mut self, value: &[u8]) {
        // Not a place of the hash matters more than others: the low bits will do.
        let [low, high, ..] = crc32fast::hash(value).to_le_bytes();
        let hash = usize::from(u16::from_le_bytes([low, high]));
        let bit = 1 << (hash % 64);
        self.values += 1;
        self.new += usize::from(self.set[hash / 64] & bit == 0);
        self.set[hash / 64] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int64Array, StringArray};

    #[test]
    fn only_columns_of_new_values_have_no_dictionary() {
        let numbers = |count: i64, different: i64| Int64Array::from_iter_values((0..count).map(|at| at % different));
        let cases = [
            (numbers(4096, 4096), true),
            (numbers(4096, 4050), true),
            (numbers(4096, 2048), false),
            (numbers(4096, 3), false),
            (numbers(300, 300), true),
            (numbers(100, 100), false),
        ];
        for (array, expected) in cases {
            assert_eq!(is_nearly_unique(&array), expected, "{} values", array.len());
            let texts = StringArray::from_iter_values(array.values().iter().map(|value| format!("trace-{value}")));
            assert_eq!(is_nearly_unique(&texts), expected, "{} texts", texts.len());
        }
        let mostly_null: Int64Array = (0..4096).map(|at| (at % 2 == 0).then_some(at)).collect();
        assert!(is_nearly_unique(&mostly_null), "nulls are no repeats");
    }
}
