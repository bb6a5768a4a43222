//! VRL's functions, compiled in another way than VRL does.

use std::fmt;
use vrl::compiler::function::{ArgumentList, Compiled, Example, FunctionCompileContext};
use vrl::compiler::state::TypeState;
use vrl::compiler::{Function, Parameter};

/// How a call of a function is compiled.
pub(super) trait Compile: fmt::Debug + Send + Sync {
    /// Compiles a call of `function`, or says why it may not be.
    fn compile(
        &self,
        function: &dyn Function,
        state: &TypeState,
        context: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled;
}

/// A function that is what it was in all but how its calls are compiled.
#[derive(Debug)]
pub(super) struct Wrapped<C> {
    pub(super) function: Box<dyn Function>,
    pub(super) how: C,
}

impl<C: Compile> Function for Wrapped<C> {
    fn compile(&self, state: &TypeState, context: &mut FunctionCompileContext, arguments: ArgumentList) -> Compiled {
        self.how.compile(&*self.function, state, context, arguments)
    }
    fn identifier(&self) -> &'static str {
        self.function.identifier()
    }
    fn usage(&self) -> &'static str {
        self.function.usage()
    }
    fn category(&self) -> &'static str {
        self.function.category()
    }
    fn return_kind(&self) -> u16 {
        self.function.return_kind()
    }
    fn pure(&self) -> bool {
        self.function.pure()
    }
    fn examples(&self) -> &'static [Example] {
        self.function.examples()
    }
    fn parameters(&self) -> &'static [Parameter] {
        self.function.parameters()
    }
}
