//! `transform` and `filter`: the user's programs. Programs and schemas that may stand in files of their own.

use super::raw::{Field, Section};
use crate::layout::Decode;
use crate::transform::{Filter, Transform};
use std::path::Path;

const TRANSFORM: &str =
    "a program in VRL, or the path of a file with one that ends in .vrl; `siltstone help transform`";
const FILTER: &str = "a condition in VRL, such as .status >= 500; `siltstone help transform`";
/// How the name of a program's file ends.
const ENDING: &str = ".vrl";

/// The transform of an archive. `outputs`: the names that it may give to `.output`.
pub(super) fn transform(
    archive: &Section<'_>,
    base_dir: &Path,
    decode: &Decode,
    outputs: &[(String, usize)],
) -> Option<String> {
    let field = archive.field("transform")?;
    let source = text_or_file(&field, base_dir, ENDING, TRANSFORM)?;
    refuse_raw(&field, decode)?;
    match Transform::compile(&source, outputs) {
        Ok(_) => Some(source),
        Err(problem) => field.wrong(problem, TRANSFORM),
    }
}

/// The filter of an output.
pub(super) fn filter(output: &Section<'_>, decode: &Decode) -> Option<String> {
    let field = output.field("filter")?;
    let source = field.text(FILTER)?;
    refuse_raw(&field, decode)?;
    match Filter::compile(source) {
        Ok(_) => Some(source.to_string()),
        Err(problem) => field.wrong(problem, FILTER),
    }
}

fn refuse_raw(field: &Field<'_>, decode: &Decode) -> Option<()> {
    match decode {
        Decode::Raw => {
            field.wrong("a program, but decode = \"raw\" looks into no payload", "another decode, or no program")
        }
        _ => Some(()),
    }
}

/// The text itself, or that of the file that it is the path of: of one line with that ending.
pub(super) fn text_or_file(field: &Field<'_>, base_dir: &Path, ending: &str, allowed: &str) -> Option<String> {
    let text = field.text(allowed)?;
    if !text.ends_with(ending) || text.contains('\n') {
        return Some(text.to_string());
    }
    let path = base_dir.join(text);
    std::fs::read_to_string(&path).map_or_else(
        |error| match field.node.variables.is_empty() {
            true => field.wrong(format!("{} cannot be read: {error}", path.display()), allowed),
            false => field.wrong(format!("the file cannot be read: {error}"), allowed),
        },
        Some,
    )
}
