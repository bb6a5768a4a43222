//! Functions that decompress, with a bound: a few bytes of a payload can stand for all memory.

use super::wrapped::{Compile, Wrapped};
use std::io::{self, Read};
use vrl::compiler::function::{ArgumentList, Compiled, FunctionCompileContext};
use vrl::compiler::prelude::VrlValueConvert;
use vrl::compiler::state::TypeState;
use vrl::compiler::{Context, Expression, Function, FunctionExpression, TypeDef, expression::Resolved};
use vrl::value::Value;

/// Most bytes that a value may become: as many as the rows of a record.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

type Decompress = fn(&[u8]) -> io::Result<Vec<u8>>;

/// `function`, or one of the same name that fails where the result has more than [`DECOMPRESSED_BYTES_MAX`] bytes.
pub(super) fn bounded(function: Box<dyn Function>) -> Box<dyn Function> {
    let decompress: Decompress = match function.identifier() {
        "decode_gzip" => |bytes| read(flate2::read::MultiGzDecoder::new(bytes)),
        "decode_zlib" => |bytes| read(flate2::read::ZlibDecoder::new(bytes)),
        "decode_zstd" => |bytes| read(zstd::Decoder::new(bytes)?),
        "decode_snappy" => snappy,
        _ => return function,
    };
    Box::new(Wrapped { function, how: Bounded(decompress) })
}

fn read(decoder: impl Read) -> io::Result<Vec<u8>> {
    let mut found = Vec::new();
    let limit = u64::try_from(DECOMPRESSED_BYTES_MAX + 1).unwrap_or(u64::MAX);
    decoder.take(limit).read_to_end(&mut found)?;
    match found.len() > DECOMPRESSED_BYTES_MAX {
        true => Err(too_large()),
        false => Ok(found),
    }
}

/// Snappy's block format, which begins with the number of bytes that it becomes.
fn snappy(bytes: &[u8]) -> io::Result<Vec<u8>> {
    match snap::raw::decompress_len(bytes)? > DECOMPRESSED_BYTES_MAX {
        true => Err(too_large()),
        false => Ok(snap::raw::Decoder::new().decompress_vec(bytes)?),
    }
}

fn too_large() -> io::Error {
    io::Error::other(format!("more than {DECOMPRESSED_BYTES_MAX} bytes"))
}

#[derive(Debug)]
struct Bounded(Decompress);

impl Compile for Bounded {
    fn compile(
        &self,
        function: &dyn Function,
        _: &TypeState,
        _: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        Ok(Call { name: function.identifier(), value: arguments.required("value"), decompress: self.0 }.as_expr())
    }
}

#[derive(Clone, Debug)]
struct Call {
    name: &'static str,
    value: Box<dyn Expression>,
    decompress: Decompress,
}

impl FunctionExpression for Call {
    fn resolve(&self, context: &mut Context) -> Resolved {
        let value = self.value.resolve(context)?.try_bytes()?;
        match (self.decompress)(&value) {
            Ok(bytes) => Ok(Value::Bytes(bytes.into())),
            Err(error) => Err(format!("{} cannot decompress the value: {error}", self.name).into()),
        }
    }

    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::bytes().fallible()
    }
}
