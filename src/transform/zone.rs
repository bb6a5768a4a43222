//! Functions that take a time zone: `local`, an empty text and what a payload says would be the machine's own zone.

use vrl::compiler::function::{ArgumentList, Compiled, Error, Example, FunctionCompileContext};
use vrl::compiler::state::TypeState;
use vrl::compiler::{Function, Parameter};

/// The parameter.
const TIMEZONE: &str = "timezone";

/// `function`, which takes a time zone only where the program itself names one of the IANA database.
pub(super) fn named_only(function: Box<dyn Function>) -> Box<dyn Function> {
    match function.parameters().iter().any(|parameter| parameter.keyword == TIMEZONE) {
        true => Box::new(NamedZone(function)),
        false => function,
    }
}

#[derive(Debug)]
struct NamedZone(Box<dyn Function>);

impl Function for NamedZone {
    fn compile(&self, state: &TypeState, context: &mut FunctionCompileContext, arguments: ArgumentList) -> Compiled {
        if let Some(value) = arguments.optional_literal(TIMEZONE, state)?
            && value.to_string_lossy().parse::<chrono_tz::Tz>().is_err()
        {
            let error = "not the name of a zone in the IANA database";
            return Err(Box::new(Error::InvalidArgument { keyword: TIMEZONE, value, error }));
        }
        self.0.compile(state, context, arguments)
    }
    fn identifier(&self) -> &'static str {
        self.0.identifier()
    }
    fn usage(&self) -> &'static str {
        self.0.usage()
    }
    fn category(&self) -> &'static str {
        self.0.category()
    }
    fn return_kind(&self) -> u16 {
        self.0.return_kind()
    }
    fn pure(&self) -> bool {
        self.0.pure()
    }
    fn examples(&self) -> &'static [Example] {
        self.0.examples()
    }
    fn parameters(&self) -> &'static [Parameter] {
        self.0.parameters()
    }
}
