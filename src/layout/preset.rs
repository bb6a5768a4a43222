//! Named pairs of path and name templates: what other archivers write, and our default.

/// A pair of templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Template of the folder.
    pub path: &'static str,
    /// Template of the name without its extension.
    pub name: &'static str,
}

/// Every preset, in the order in which messages list them. The first one is the default.
pub const NAMES: [&str; 3] = ["hive", "secor", "fluentd"];

/// The preset of that name.
///
/// `secor` is Secor's own scheme: the end of the range is not in the name, only in receipt and metadata.
pub fn preset(name: &str) -> Option<Preset> {
    match name {
        "hive" => {
            Some(Preset { path: "{topic}/dt=%Y-%m-%d/hr=%H", name: "{topic}+{partition:05}+{first:020}-{end:020}" })
        }
        "secor" => Some(Preset { path: "{topic}/dt=%Y-%m-%d/hr=%H", name: "{generation}_{partition}_{first:020}" }),
        "fluentd" => Some(Preset { path: "%Y/%m/%d/%H", name: "%Y%m%d-%H%M_{topic}_{partition}_{first}-{end}" }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_preset() {
        for name in NAMES {
            assert!(preset(name).is_some(), "{name}");
        }
        assert_eq!(preset("Hive"), None);
    }
}
