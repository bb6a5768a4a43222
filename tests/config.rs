//! The files in `config/` are what people copy: each must be right, and `full.toml` must be complete.

use siltstone::config::{Config, SHAPES, effective_toml, load, parse};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).expect("the file is part of the project")
}

/// A variable of any name, so that examples with secrets can be read.
fn any(name: &str) -> Option<String> {
    Some(format!("value-of-{name}"))
}

fn none(_: &str) -> Option<String> {
    None
}

fn resolved(text: &str) -> Config {
    match parse(text, &folder(), &any) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

/// `full.toml` with its examples switched on: `#key = …`, `#[section]`, and the lines that go on with a value.
fn switched_on() -> String {
    let switch = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') || rest.starts_with("  {") => rest.to_string(),
        _ => line.to_string(),
    };
    read("full.toml").lines().map(switch).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_file_is_right_without_any_variable() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).expect("config/ is part of the project") {
        let path = entry.expect("config/ can be listed").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            count += 1;
            if let Err(errors) = load(&path, &none) {
                panic!("{}:\n{errors}", path.display());
            }
        }
    }
    assert_eq!(count, 7, "full, minimal, s3, gcs, azure, local, firehose");
}

/// Every live line of full.toml is a default: the whole file resolves to what the minimal file resolves to.
#[test]
fn the_defaults_of_full_are_the_defaults() {
    let (full, minimal) = (resolved(&read("full.toml")), resolved(&read("minimal.toml")));
    assert_eq!(effective_toml(&full), effective_toml(&minimal));
    assert_eq!(format!("{full:#?}"), format!("{minimal:#?}"));
    for (archive, other) in full.archives.iter().zip(&minimal.archives) {
        assert_eq!(archive.layout.fingerprint(), other.layout.fingerprint());
    }
}

/// And every default stands there: a key that the effective minimal configuration has is a live line of full.toml.
#[test]
fn every_default_is_a_live_line_of_full() {
    let minimal: toml::Table =
        effective_toml(&resolved(&read("minimal.toml"))).parse().expect("effective TOML is TOML");
    let full: toml::Table = read("full.toml").parse().expect("full.toml is TOML");
    let mut missing = Vec::new();
    each_key("", &toml::Value::Table(minimal), &mut |path, _| {
        // The number of cores is not the same everywhere.
        if path != "memory.threads" && !has(&full, path) {
            missing.push(path.to_string());
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

/// Keys that stand in place of others of the same section, so that both cannot be switched on.
const INSTEAD: &[&str] = &["registry.token"];

#[test]
fn every_key_is_in_full() {
    let text = switched_on();
    let full: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => panic!("{error}\n{text}"),
    };
    let mut missing = Vec::new();
    for shape in SHAPES {
        for key in shape.keys {
            let path = if shape.at.is_empty() { (*key).to_string() } else { format!("{}.{key}", shape.at) };
            let is_instead = INSTEAD.contains(&path.as_str()) && text.contains(&format!("\n# {key} = "));
            if !is_instead && !has(&full, &path) {
                missing.push(path);
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "keys that full.toml does not show");
}

#[test]
fn the_examples_of_full_are_right() {
    let config = resolved(&switched_on());
    assert_eq!(config.archives.len(), 15);
    assert_eq!(config.destinations.len(), 7);
    assert_eq!(config.archives[1].destination_names, [vec!["main", "disk"], vec!["main"]]);
}

/// Whether some table at `path` (lists are looked through, `*` is any name) has its last key.
fn has(table: &toml::Table, path: &str) -> bool {
    let mut tables = vec![table];
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let values: Vec<&toml::Value> = match part {
            "*" => tables.iter().flat_map(|table| table.values()).collect(),
            name => tables.iter().filter_map(|table| table.get(name)).collect(),
        };
        if parts.peek().is_none() {
            return !values.is_empty();
        }
        tables.clear();
        for value in values {
            match value {
                toml::Value::Table(table) => tables.push(table),
                toml::Value::Array(items) => tables.extend(items.iter().filter_map(toml::Value::as_table)),
                _ => {}
            }
        }
    }
    false
}

fn each_key(path: &str, value: &toml::Value, found: &mut dyn FnMut(&str, &toml::Value)) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found(&path, value);
                each_key(&path, value, found);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| each_key(path, item, found)),
        _ => {}
    }
}
