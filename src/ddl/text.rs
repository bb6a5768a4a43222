//! Names and texts of statements, as each family of dialects quotes them.

/// A name between backticks, one inside doubled: Hive, Athena, Spark.
pub(super) fn backticks(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A name between backticks, with the escapes of a text: BigQuery, ClickHouse.
pub(super) fn escaped_backticks(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A name between double quotes, one inside doubled: DuckDB.
pub(super) fn double_quotes(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text between single quotes, in which a backslash escapes: Hive, Athena, Spark, BigQuery, ClickHouse.
pub(super) fn escaped(text: &str) -> String {
    let inner = text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n").replace('\r', "\\r");
    format!("'{inner}'")
}

/// A text between single quotes, one inside doubled and nothing escaped: DuckDB.
pub(super) fn doubled(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name of several parts, each quoted by `quote`.
pub(super) fn qualified(name: &str, quote: fn(&str) -> String) -> String {
    name.split('.').map(quote).collect::<Vec<_>>().join(".")
}

/// Text that cannot leave its comment.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Lines of a list, indented, with commas between.
pub(super) fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join(",\n")
}

/// Whether every engine takes `name` without quotes: letters, digits and `_`, no digit first.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
