//! Transforms and filters: programs in VRL (Vector Remap Language) that the user wrote, run on every row.
//!
//! ```text
//! Rows of the decoder ──Transform──▶ rows as they are archived, each with the outputs that take it
//! ```
//! The row is `.`; what `.` is at the end of the program is the row, or its elements are where the program assigned an array to it. Kafka's own is
//! read from `%`: `%topic`, `%partition`, `%offset`, `%timestamp` (milliseconds), `%key`, `%headers.name` (the last header of
//! that name). `abort` drops the row, counted under the rule `transform`; any other error makes it a dead letter. A program that
//! assigns `.output`, or puts a field `output` into what it assigns to `.`, names with it the one output or several that take
//! the row; the field itself is not part of the row.
//!
//! # Guarantees
//! - **T-1** What a program makes of a row depends on the row and its record alone: functions whose result does not
//!   (clocks, random numbers, files, environment, network) do not exist here.
//! - **T-2** Every row that goes in comes out as rows, is dropped by a rule the user wrote, or is refused with a reason.
//! - **T-3** No value is changed or lost silently: numbers that VRL cannot hold exactly (from 2^63 on), names that come twice,
//!   results that JSON cannot hold (bytes that are no text) and assignments to parts of what has none in `.` refuse the row; in a
//!   variable VRL's own rule replaces it. Fractions are doubles, and fields come out in the order of their names.
//! - **T-4** What decompresses in a program is bounded. What multiplies or nests values in it is not: the guide says which.

mod arguments;
mod decompress;
mod target;
mod value;
mod wrapped;

use crate::decode::{DecodeError, Rows};
use crate::parse::text::quote;
use crate::record::Record;
use std::collections::BTreeSet;
use target::Row;
use vrl::compiler::runtime::{Runtime, Terminate};
use vrl::compiler::state::RuntimeState;
use vrl::compiler::{CompileConfig, Function, Program, TimeZone};
use vrl::diagnostic::Formatter;
use vrl::path::{OwnedSegment, PathPrefix};
use vrl::value::{Kind, Value};

/// Functions of VRL that are left out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("now", CLOCK),
    ("parse_klog", YEAR),
    ("parse_linux_authorization", YEAR),
    ("parse_syslog", "it reads the year off the clock: use decode = \"syslog\", which takes it from the record"),
    ("get_timezone_name", MACHINE),
    ("get_hostname", MACHINE),
    ("get_env_var", MACHINE),
    ("random_bool", RANDOM),
    ("random_bytes", RANDOM),
    ("random_float", RANDOM),
    ("random_int", RANDOM),
    ("uuid_v4", RANDOM),
    ("uuid_v7", RANDOM),
    ("dns_lookup", NETWORK),
    ("reverse_dns", NETWORK),
    ("http_request", NETWORK),
    ("parse_proto", FILE),
    ("encode_proto", FILE),
    ("validate_json_schema", FILE),
    ("parse_groks", YEAR),
    ("parse_etld", FILE),
    (
        "shannon_entropy",
        "it adds up in the order of a hash table: a record that is read again could become another row",
    ),
    (
        "parse_cef",
        "it reads custom fields in the order of a hash table: a record that is read again could become another row",
    ),
    ("decode_lz4", "a payload of a few bytes may make it take all memory"),
    ("parse_ruby_hash", NESTING),
    ("parse_xml", NESTING),
    ("unflatten", NESTING),
    ("set", NESTING),
    ("log", "it would write a line for every record"),
];
const NESTING: &str = "a payload may make it nest so deeply that the process dies, again and again";
const CLOCK: &str = "its result is the time of running: a record that is read again would become another row";
const YEAR: &str = "it reads the year off the clock: a record that is read again later would become another row";
const MACHINE: &str =
    "its result differs between machines: a record that is read again elsewhere would become another row";
const RANDOM: &str = "its result is random: a record that is read again would become another row";
const NETWORK: &str = "its result is not determined by the record: one that is read again could become another row";
const FILE: &str = "it reads a file that may change: a record that is read again later could become another row";

/// The field that says which outputs take a row.
const OUTPUT: &str = "output";

/// What becomes of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shaped {
    /// It became so many rows, each with the outputs that take it: all (`None`), or those at these indexes.
    Rows(Vec<Option<BTreeSet<usize>>>),
    /// The program dropped it.
    Dropped,
    /// It is a dead letter.
    Refused(String),
}

/// A compiled program. Shared by all threads.
pub struct Transform {
    program: Program,
    reads_record: bool,
    /// The program assigns `.` as a whole somewhere: where it does, an array is more than one row.
    spreads: bool,
    /// Names of the outputs that rows go to, where the program says which; with their indexes.
    routes: Option<Vec<(String, usize)>>,
}

impl Transform {
    /// Compiles `source`. `outputs`: names and indexes of the outputs that it may name in `.output`.
    ///
    /// # Errors
    /// What the compiler found, with lines and hints, for the person who wrote the program.
    pub fn compile(source: &str, outputs: &[(String, usize)]) -> Result<Self, String> {
        let program = compile(source)?;
        let mut spreads = false;
        // A literal in an object that `.` becomes names outputs just as an assignment does.
        let mut routes = names_outputs(program.final_type_info().state.external.target_kind());
        for path in program.info().target_assignments.iter().filter(|path| path.prefix == PathPrefix::Event) {
            match path.path.segments.as_slice() {
                [] => spreads = true,
                [first] if *first == OwnedSegment::field(OUTPUT) => routes = true,
                [first, ..] if *first == OwnedSegment::field(OUTPUT) => {
                    return Err(format!(
                        "it assigns {path}: .{OUTPUT} is the name of an output or an array of names, and assigned as a whole"
                    ));
                }
                _ => {}
            }
        }
        Ok(Self { reads_record: reads_record(&program), spreads, routes: routes.then(|| outputs.to_vec()), program })
    }

    /// Whether it may make several rows of one.
    pub fn spreads(&self) -> bool {
        self.spreads
    }

    /// Runs the program on `row`, one of `record`'s, and adds what it makes to `out`.
    pub fn run(&self, record: &Record<'_>, row: &str, out: &mut Rows) -> Shaped {
        let mut target = match value::read(row) {
            Ok(row) => target(record, row, self.reads_record),
            Err(DecodeError(reason)) => return Shaped::Refused(reason),
        };
        match resolve(&self.program, &mut target) {
            Err(Terminate::Abort(_)) => return Shaped::Dropped,
            Err(error) => return Shaped::Refused(shown(&error)),
            Ok(_) => {}
        }
        let before = out.len();
        let rows = match target.finish() {
            Ok((Value::Array(rows), true)) => rows,
            Ok((row, _)) => vec![row],
            Err(DecodeError(reason)) => return Shaped::Refused(reason),
        };
        let mut outputs = Vec::with_capacity(rows.len());
        for row in rows {
            match self.finish(row, out) {
                Ok(route) => outputs.push(route),
                Err(DecodeError(reason)) => {
                    out.truncate(before);
                    return Shaped::Refused(reason);
                }
            }
        }
        Shaped::Rows(outputs)
    }

    /// Adds one row to `out` and says which outputs take it.
    fn finish(&self, mut row: Value, out: &mut Rows) -> Result<Option<BTreeSet<usize>>, DecodeError> {
        let route = match &self.routes {
            None => None,
            Some(outputs) => match row.as_object_mut().and_then(|fields| fields.remove(OUTPUT)) {
                None | Some(Value::Null) => None,
                Some(Value::Array(names)) => {
                    Some(names.iter().map(|name| position(outputs, name)).collect::<Result<_, _>>()?)
                }
                Some(name) => Some(BTreeSet::from([position(outputs, &name)?])),
            },
        };
        value::write(&row, out)?;
        Ok(route)
    }
}

/// A compiled condition.
pub struct Filter {
    program: Program,
    reads_record: bool,
}

impl Filter {
    /// Compiles `source`, an expression that is true or false.
    ///
    /// # Errors
    /// What the compiler found, or that it is no condition.
    pub fn compile(source: &str) -> Result<Self, String> {
        let program = match compile(source) {
            Ok(program) => program,
            // Something in it may fail, and VRL wants to hear what happens then: the row is a dead letter.
            Err(problem) => compile(&failing(source)).map_err(|_| problem)?,
        };
        if !program.final_type_info().result.is_boolean() {
            return Err(format!(
                "its result is {}, where true or false is needed",
                program.final_type_info().result.kind()
            ));
        }
        if let Some(path) = program.info().target_assignments.first() {
            return Err(format!("it assigns {path}, where it may only look"));
        }
        Ok(Self { reads_record: reads_record(&program), program })
    }

    /// Whether `row`, one of `record`'s, passes.
    ///
    /// # Errors
    /// Why that cannot be said: the row is a dead letter.
    pub fn passes(&self, record: &Record<'_>, row: &str) -> Result<bool, DecodeError> {
        let mut target = target(record, value::read_for_filter(row)?, self.reads_record);
        match resolve(&self.program, &mut target) {
            Ok(Value::Boolean(passes)) => Ok(passes),
            Ok(_) => Err(DecodeError("the filter is neither true nor false".to_string())),
            Err(Terminate::Abort(_)) => Ok(false),
            Err(error) => Err(DecodeError(shown(&error))),
        }
    }
}

fn compile(source: &str) -> Result<Program, String> {
    let known = vrl::stdlib::all().into_iter().filter(|known| left_out(known.identifier()).is_none());
    let functions: Vec<Box<dyn Function>> = known.map(arguments::checked).map(decompress::bounded).collect();
    let found = vrl::compiler::compile_with_external(source, &functions, &Default::default(), CompileConfig::default());
    found.map(|compiled| compiled.program).map_err(|problems| {
        let mut text = Formatter::new(source, problems).to_string();
        for (name, why) in LEFT_OUT.iter().filter(|(name, _)| calls(source, name)) {
            text.push_str(&format!("{name} is left out: {why}\n"));
        }
        text.trim().to_string()
    })
}

/// The condition `source` as a program that fails where the condition does.
fn failing(source: &str) -> String {
    format!("passes, problem = ({source})\nif problem != null {{ assert!(false, to_string(problem)) }}\npasses")
}

fn left_out(name: &str) -> Option<&'static str> {
    LEFT_OUT.iter().find(|(known, _)| *known == name).map(|(_, why)| *why)
}

/// Whether `source` seems to call the function `name`.
fn calls(source: &str, name: &str) -> bool {
    source.match_indices(name).any(|(at, _)| {
        let before = source[..at].chars().next_back();
        let after = source[at + name.len()..].chars().next();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') && matches!(after, Some('(' | '!'))
    })
}

fn reads_record(program: &Program) -> bool {
    program.info().target_queries.iter().any(|path| path.prefix == PathPrefix::Metadata)
}

/// Whether rows of this kind, or those in an array of this kind, have a field of the name that the program itself gave them.
fn names_outputs(kind: &Kind) -> bool {
    let of_row = |kind: &Kind| {
        kind.as_object().and_then(|fields| fields.known().get(&OUTPUT.into())).is_some_and(|kind| !kind.is_undefined())
    };
    let of_element =
        || kind.as_array().is_some_and(|array| array.known().values().any(of_row) || of_row(&array.unknown_kind()));
    of_row(kind) || of_element()
}

fn target(record: &Record<'_>, row: Value, with_record: bool) -> Row {
    Row::new(row, if with_record { value::of_record(record) } else { Value::Object(Default::default()) })
}

/// Runs in UTC: a time without a zone means the same everywhere.
fn resolve(program: &Program, target: &mut Row) -> Result<Value, Terminate> {
    Runtime::new(RuntimeState::default()).resolve(target, program, &TimeZone::Named(chrono_tz::UTC))
}

/// An error in one line, which may quote the row.
fn shown(error: &Terminate) -> String {
    /// Most characters of it.
    const CHARS_MAX: usize = 300;
    let text = error.to_string();
    let mut letters = text.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let start: String = letters.by_ref().take(CHARS_MAX).collect();
    if letters.next().is_some() { format!("{start}…") } else { start }
}

fn position(outputs: &[(String, usize)], name: &Value) -> Result<usize, DecodeError> {
    let text = match name {
        Value::Bytes(_) | Value::String(_) => name.to_string_lossy(),
        _ => return Err(DecodeError(".output is neither the name of an output nor a list of names".to_string())),
    };
    outputs.iter().find(|(known, _)| *known == *text).map(|(_, index)| *index).ok_or_else(|| {
        let known: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        DecodeError(format!(".output is {}, but rows go to {}", quote(&text), known.join(", ")))
    })
}

#[cfg(test)]
mod tests;
