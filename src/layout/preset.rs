//! Named pairs of path and name templates: what other archivers write, and our default.

use super::Ending;

/// A pair of templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Template of the folder.
    pub path: &'static str,
    /// Template of the name without its extension.
    pub name: &'static str,
    /// How much of the format's extension the name ends in.
    pub ending: Ending,
}

/// Every preset, in the order in which messages list them. The first one is the default.
pub const NAMES: [&str; 3] = ["hive", "secor", "fluentd"];

/// The preset of that name.
///
/// `secor` is Secor's own scheme: the end of the range is not in the name, only in receipt and metadata, and the name ends
/// in the codec's extension alone.
pub fn preset(name: &str) -> Option<Preset> {
    match name {
        "hive" => Some(Preset {
            path: "{topic}/dt=%Y-%m-%d/hr=%H",
            name: "{topic}+{partition:05}+{first:020}-{end:020}",
            ending: Ending::Whole,
        }),
        "secor" => Some(Preset {
            path: "{topic}/dt=%Y-%m-%d/hr=%H",
            name: "{generation}_{partition}_{first:020}",
            ending: Ending::Codec,
        }),
        "fluentd" => Some(Preset {
            path: "%Y/%m/%d/%H",
            name: "%Y%m%d-%H%M_{topic}_{partition}_{first}-{end}",
            ending: Ending::Whole,
        }),
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
