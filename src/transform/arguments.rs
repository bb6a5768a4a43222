//! Arguments that a program has to write out, so that no payload chooses them; and those that it cannot have.

use super::wrapped::{Compile, Wrapped};
use vrl::compiler::Function;
use vrl::compiler::function::{ArgumentList, Compiled, Error, FunctionCompileContext};
use vrl::compiler::state::TypeState;
use vrl::value::Value;

/// Says what is wrong with the value of an argument.
type Check = fn(&Value) -> Option<&'static str>;

/// Most digits behind the point that `format_number` fills up to.
const SCALE_MAX: i64 = 100;

/// `function`, which takes some of its arguments only as literals that pass a check.
pub(super) fn checked(function: Box<dyn Function>) -> Box<dyn Function> {
    let check: Option<(&'static str, Check)> = match function.identifier() {
        "format_number" => Some(("scale", scale)),
        "parse_json" => Some(("max_depth", max_depth)),
        _ => {
            function.parameters().iter().find(|known| known.keyword == "timezone").map(|_| ("timezone", zone as Check))
        }
    };
    match check {
        Some((keyword, check)) => Box::new(Wrapped { function, how: Checked { keyword, check } }),
        None => function,
    }
}

/// `local`, an empty text and what a payload says would be the machine's own zone.
fn zone(value: &Value) -> Option<&'static str> {
    let is_known = value.to_string_lossy().parse::<chrono_tz::Tz>().is_ok();
    (!is_known).then_some("not the name of a zone in the IANA database")
}

/// So many zeros are written, one by one.
fn scale(value: &Value) -> Option<&'static str> {
    let is_small = value.as_integer().is_some_and(|scale| (0..=SCALE_MAX).contains(&scale));
    (!is_small).then_some("not between 0 and 100")
}

/// Reads the members in the order of a hash table: which of two errors it tells would be chance.
fn max_depth(_: &Value) -> Option<&'static str> {
    Some("not allowed, as the error of a text that cannot be parsed would differ from run to run")
}

#[derive(Debug)]
struct Checked {
    keyword: &'static str,
    check: Check,
}

impl Compile for Checked {
    fn compile(
        &self,
        function: &dyn Function,
        state: &TypeState,
        context: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        if let Some(value) = arguments.optional_literal(self.keyword, state)?
            && let Some(error) = (self.check)(&value)
        {
            return Err(Box::new(Error::InvalidArgument { keyword: self.keyword, value, error }));
        }
        function.compile(state, context, arguments)
    }
}
