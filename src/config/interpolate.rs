//! `${NAME}` and `${NAME:-default}` inside values; `$${` stands for a plain `${`.
//!
//! Works on values after TOML has been parsed: whatever a variable holds, it cannot change the file's structure.
//! As in a shell, the default also counts when the variable is set but empty. Defaults are plain text.
//! The environment is handed in; nothing here reads it.

/// A value with its variables filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interpolated {
    /// The value.
    pub(super) text: String,
    /// Names of the variables in it, also of those whose default was taken.
    pub(super) variables: Vec<String>,
}

/// Why variables could not be filled in. Holds names at most, never contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InterpolateError {
    #[error("the variable {0} is not set and has no default")]
    Missing(String),
    #[error("`${{` has no closing `}}`")]
    Unclosed,
    #[error("a variable's name is letters, digits and `_`, and starts with none of the digits")]
    Name,
    #[error("after the variable {0} only `:-default` may follow")]
    Operator(String),
    #[error("the default of the variable {0} holds another variable")]
    Nested(String),
}

/// What is allowed, for error texts.
pub(super) const FORM: &str = "${NAME}, ${NAME:-default}, or $${ for a plain ${";

/// Fills in the variables of `text`.
///
/// # Errors
/// Every problem of the text, in order.
pub(super) fn interpolate(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Interpolated, Vec<InterpolateError>> {
    let mut done = Interpolated { text: String::with_capacity(text.len()), variables: Vec::new() };
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let before = &rest[..at];
        let inside = &rest[at + 2..];
        if let Some(literal) = before.strip_suffix('$') {
            done.text.push_str(literal);
            done.text.push_str("${");
            rest = inside;
            continue;
        }
        done.text.push_str(before);
        let Some(end) = inside.find('}') else {
            errors.push(InterpolateError::Unclosed);
            rest = "";
            break;
        };
        match variable(&inside[..end], env) {
            Ok((name, value)) => {
                done.text.push_str(&value);
                done.variables.push(name.to_string());
            }
            Err(error) => errors.push(error),
        }
        rest = &inside[end + 1..];
    }
    done.text.push_str(rest);
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}

/// Name and value of what stands between `${` and `}`.
fn variable<'a>(inside: &'a str, env: &dyn Fn(&str) -> Option<String>) -> Result<(&'a str, String), InterpolateError> {
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, operator) = inside.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(InterpolateError::Name);
    }
    if operator.is_empty() {
        let value = env(name).ok_or_else(|| InterpolateError::Missing(name.to_string()))?;
        return Ok((name, value));
    }
    let default = operator.strip_prefix(":-").ok_or_else(|| InterpolateError::Operator(name.to_string()))?;
    if default.contains("${") {
        return Err(InterpolateError::Nested(name.to_string()));
    }
    let value = env(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_string());
    Ok((name, value))
}

/// Variables whose value belongs to one process, host or moment. Refused in everything that decides names and rows:
/// two processes of one group would not agree, and a restarted one would contradict its own plan.
pub const PER_PROCESS_VARIABLES: &[&str] = &[
    "BASHPID",
    "COMPUTERNAME",
    "CONTAINER_ID",
    "DYNO",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "HOST",
    "HOSTNAME",
    "HOST_IP",
    "HOST_NAME",
    "INSTANCE_ID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "K_REVISION",
    "MACHINE_ID",
    "NODE_IP",
    "NODE_NAME",
    "NOMAD_ALLOC_ID",
    "NOMAD_ALLOC_INDEX",
    "OLDPWD",
    "PID",
    "POD",
    "POD_ID",
    "POD_INDEX",
    "POD_IP",
    "POD_NAME",
    "POD_UID",
    "PPID",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SRANDOM",
    "TMPDIR",
    "UUID",
];

/// Whether the variable's value belongs to one process: one of [`PER_PROCESS_VARIABLES`] in any case, the longer ones
/// also with a prefix (`MY_POD_NAME`; but `DB_HOST` is nobody's own).
pub(super) fn is_per_process(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    PER_PROCESS_VARIABLES.iter().any(|listed| {
        let telling = listed.contains('_') || *listed == "HOSTNAME";
        name == *listed || (telling && name.strip_suffix(listed).is_some_and(|prefix| prefix.ends_with('_')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_string()),
            "EMPTY" => Some(String::new()),
            "QUOTE" => Some("\"\n[x]\n${A}".to_string()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, expected) in [
            ("plain $ $A $$ {A}", "plain $ $A $$ {A}"),
            ("${A}", "one"),
            ("<${A}${A}>", "<oneone>"),
            ("${B:-two}", "two"),
            ("${A:-two}", "one"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY}", ""),
            ("${B:-}", ""),
            ("${B:-a:-b c}", "a:-b c"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$${A} ${A}", "${A} one"),
            ("${QUOTE}", "\"\n[x]\n${A}"),
            ("ä${A}ö", "äoneö"),
        ] {
            assert_eq!(interpolate(text, &env).map(|done| done.text), Ok(expected.to_string()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        use InterpolateError::{Missing, Name, Nested, Operator, Unclosed};
        for (text, expected) in [
            ("${B} ${C}", vec![Missing("B".to_string()), Missing("C".to_string())]),
            ("${A", vec![Unclosed]),
            ("${", vec![Unclosed]),
            ("${}", vec![Name]),
            ("${1A}", vec![Name]),
            ("${$}", vec![Name]),
            ("${A-x}", vec![Operator("A".to_string())]),
            ("${A:?x}", vec![Operator("A".to_string())]),
            ("${B:-${A}}", vec![Nested("B".to_string())]),
        ] {
            assert_eq!(interpolate(text, &env), Err(expected), "{text}");
        }
    }

    #[test]
    fn variables_of_one_process_are_known() {
        for (name, expected) in [
            ("HOSTNAME", true),
            ("hostname", true),
            ("MY_POD_NAME", true),
            ("TRIPOD", false),
            ("BUCKET", false),
            ("GHOST", false),
            ("DB_HOST", false),
            ("KAFKA_HOSTS", false),
        ] {
            assert_eq!(is_per_process(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back(text in "\\PC*") {
            prop_assume!(!text.contains("$${"));
            let escaped = text.replace("${", "$${");
            prop_assert_eq!(interpolate(&escaped, &env).map(|done| done.text), Ok(text));
        }

        #[test]
        fn any_text_is_filled_in_or_refused(text in "[$\\{\\}A:\\-x ]*") {
            let _either = interpolate(&text, &env).is_ok();
        }
    }
}
