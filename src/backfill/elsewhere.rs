//! `--into`: the same archive at another destination, which the configuration's own never hears of.

use super::job::{Site, group_of};
use crate::bucket::{Bucket, BucketError};
use crate::clock::Clock;
use crate::config::{ArchiveConfig, Config, DestinationConfig};
use crate::destination::StoreKind;
use crate::destination::url::StoreUrl;
use crate::exit::{Exit, Failure};
use crate::layout::collide::{self, Claimant, Spot};
use crate::ledger::{self, Destinations};
use crate::pipeline::archive::DEAD_LETTERS;
use crate::pipeline::start::patiently;
use std::collections::BTreeMap;

/// What the destination is called where it has no section of its own.
const NAME: &str = "into";

/// `config` with `archive` alone, and everything of it, dead letters too, at `into`: the name of a section `[destinations.NAME]`, or a URL. A URL
/// without a section has the options of one that is in the same bucket.
///
/// # Errors
/// [`Exit::Config`]: no such destination, one that lies in a place of the configuration's archives (or around one), or names that would collide
/// where all outputs have one destination.
pub fn config_into(config: &Config, archive: &ArchiveConfig, into: &str) -> Result<Config, Failure> {
    let (name, destination) = destination(config, into)?;
    let refused = |what: String| Failure::new(Exit::Config, format!("--into {into}: {what}"));
    let url = destination.url.clone();
    for other in &config.archives {
        let places = other.layout.outputs.iter().map(|output| &output.place);
        for live in places.chain([&other.layout.dead_letters.place]).flat_map(|place| &place.destinations) {
            if is_within(&url, live) || is_within(live, &url) {
                return Err(refused(format!(
                    "archive {} has its objects at {live}: give a place that is neither there nor inside nor around it",
                    other.name
                )));
            }
        }
    }
    let mut own = archive.clone();
    for output in &mut own.layout.outputs {
        output.place.destinations = vec![url.clone()];
    }
    own.layout.dead_letters.place.destinations = vec![url];
    own.destination_names.iter_mut().for_each(|names| *names = vec![name.clone()]);
    check_names(&own, &destination).map_err(refused)?;
    let destinations = BTreeMap::from([(name, destination)]);
    Ok(Config { archives: vec![own], destinations, ..config.clone() })
}

fn destination(config: &Config, into: &str) -> Result<(String, DestinationConfig), Failure> {
    if let Some(found) = config.destinations.get(into) {
        return Ok((into.to_string(), found.clone()));
    }
    let refused = |what: String| Failure::new(Exit::Config, format!("--into {what}"));
    let url = match StoreUrl::parse(into) {
        Ok(url) => url,
        Err(problem) if !into.contains("://") => {
            let names: Vec<&str> = config.destinations.keys().map(String::as_str).collect();
            return Err(refused(format!("{into}: {problem}, and no section [destinations.*]: {}", names.join(", "))));
        }
        // It may hold a secret.
        Err(problem) => return Err(refused(problem.to_string())),
    };
    let text = url.to_string();
    if let Some((name, found)) = config.destinations.iter().find(|(_, section)| section.url == text) {
        return Ok((name.clone(), found.clone()));
    }
    if url.kind() == StoreKind::File {
        return Ok((NAME.to_string(), DestinationConfig { url: text, options: BTreeMap::new() }));
    }
    let in_bucket = |section: &&DestinationConfig| {
        StoreUrl::parse(&section.url).is_ok_and(|other| other.kind() == url.kind() && other.bucket() == url.bucket())
    };
    let Some(like) = config.destinations.values().find(in_bucket) else {
        return Err(refused(format!(
            "{text}: no section [destinations.*] is in that bucket, so nothing says how to log in there: add a section with this url"
        )));
    };
    Ok((NAME.to_string(), DestinationConfig { url: text, options: like.options.clone() }))
}

/// Whether `inner` is `outer` or lies in it. Both in normal form.
fn is_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || outer.ends_with('/'))
}

/// Two outputs with destinations of their own may have equal names.
fn check_names(archive: &ArchiveConfig, destination: &DestinationConfig) -> Result<(), String> {
    let layout = &archive.layout;
    let endpoint = destination.options.get("endpoint").map(|endpoint| endpoint.reveal());
    let dead = (DEAD_LETTERS, &layout.dead_letters.place, layout.dead_letters.extension());
    let outputs = layout.outputs.iter();
    let all: Vec<_> = outputs
        .map(|output| (output.name.as_str(), &output.place, output.place.extension(&output.format)))
        .chain([dead])
        .collect();
    let claimants: Vec<Claimant<'_>> = all
        .iter()
        .map(|(output, place, extension)| Claimant {
            archive: &archive.name,
            output,
            place,
            extension,
            topic: archive.topics.only(),
            generation: layout.generation,
            spots: vec![Spot::from_url(&destination.url, endpoint)],
        })
        .collect();
    collide::check(&claimants).map_err(|collisions| {
        let told: Vec<String> = collisions.iter().map(ToString::to_string).collect();
        format!("{}; give outputs paths or names of their own in a copy of the configuration", told.join("; "))
    })
}

/// The archive at the destination that [`config_into`] has put it to, for the job of that name. `config` is what it gave.
///
/// # Errors
/// [`Exit::Stopped`]: the place is taken by an archive that no job has made. A store that refuses or does not answer.
pub async fn site<'c>(
    config: &'c Config,
    destinations: &Destinations,
    clock: &dyn Clock,
    job: &str,
) -> Result<Site<'c>, Failure> {
    let archive = &config.archives[0];
    let (home, group) = (&archive.layout.outputs[0].place.destinations[0], &config.kafka.group);
    let destination = destinations.get(home).ok_or_else(|| {
        Failure::new(Exit::Config, format!("archive {}: no destination has the URL {home}", archive.name))
    })?;
    let bucket = Bucket::new(destination.clone()).of_generation(archive.layout.generation);
    let what = format!("--into {home}");
    let identity = patiently(clock, &what, || bucket.identity()).await?;
    let own = group_of(group, job, Some(home));
    let owner = match identity {
        None => own,
        // Another job has begun here: both are one archive.
        Some(identity) if identity.group.starts_with(&group_of(group, "", None)) => identity.group,
        Some(identity) => {
            let mismatch = BucketError::IdentityMismatch {
                what: "group",
                ours: own,
                theirs: identity.group,
                destination: destination.id().to_string(),
                way_back: "use the group that it was made beside",
            };
            return Err(Failure::new(Exit::Stopped, format!("{what}: {mismatch}")));
        }
    };
    // Names tell archives apart only where one configuration has made them: two of them would take each other's objects for theirs.
    let there = patiently(clock, &what, || bucket.partitions()).await?;
    if let Some(other) = there.iter().find(|partition| !archive.topics.matches(&partition.topic)) {
        let (topic, name) = (&other.topic, &archive.name);
        let problem =
            format!("{what}: topic {topic} lies there, which archive {name} does not take: give another place");
        return Err(Failure::new(Exit::Config, problem));
    }
    let ledger = ledger::Site { archive, bucket, partitions: Vec::new() };
    Ok(Site { archive, ledger, group: group.clone(), owner, is_elsewhere: true, kafka: config.kafka.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::path::Path;

    fn config(outputs: &str) -> Config {
        let text = format!(
            "kafka.brokers='k'\n[destinations.main]\nurl='s3://b/live'\nendpoint='http://127.0.0.1:1'\nallow_http=true\n\
             [destinations.other]\nurl='s3://c'\n[[archive]]\ntopics=['t']\n{outputs}"
        );
        config::parse(&text, Path::new("/"), &|_| None).expect("a configuration")
    }

    fn into(config: &Config, into: &str) -> Result<Config, String> {
        config_into(config, &config.archives[0], into).map_err(|failure| failure.message)
    }

    #[test]
    fn everything_goes_to_the_one_place() {
        let config = config(
            "[archive.dead_letters]\ndestination='other'\n[[archive.output]]\nname='a'\nformat.type='json'\ndestination='main'",
        );
        let moved = into(&config, "s3://b/again/").expect("a place in a bucket that is known");
        let layout = &moved.archives[0].layout;
        assert_eq!(layout.outputs[0].place.destinations, ["s3://b/again"]);
        assert_eq!(layout.dead_letters.place.destinations, ["s3://b/again"]);
        assert_eq!(moved.archives[0].destination_names, [["into"], ["into"]]);
        assert_eq!(moved.destinations.keys().collect::<Vec<_>>(), ["into"]);
        assert!(moved.destinations["into"].options.contains_key("endpoint"));
        assert_ne!(layout.fingerprint(), config.archives[0].layout.fingerprint());
    }

    #[test]
    fn a_place_that_others_have_is_refused() {
        let config = config("[[archive.output]]\nformat.type='json'\ndestination='main'");
        assert_eq!(into(&config, "file:///again").expect("a folder").archives[0].layout.outputs.len(), 1);
        into(&config, "other").expect("a section that no archive uses");
        for (place, says) in [
            ("main", "s3://b/live"),
            ("s3://b/live/again", "s3://b/live"),
            ("s3://b", "around"),
            ("s3://d/x", "add a section"),
            ("elsewhere", "main, other"),
            ("s3://user:secret@b/x", "not shown"),
        ] {
            let refused = into(&config, place).map(drop).expect_err(place);
            assert!(refused.contains(says) && !refused.contains("secret@"), "{place}: {refused}");
        }
        into(&config, "s3://b/live2").expect("beside it");
    }
}
