//! The client of a destination: its section first, then the files of a Hadoop client.

use super::namenode::Namenodes;
use super::{HdfsStore, RUNTIME};
use crate::destination::DestinationError;
use crate::destination::cloud::Options;
use crate::destination::url::StoreUrl;
use hdfs_native::{Client, ClientBuilder};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;

/// Settings that the destination makes for itself, unless its section names them: waiting longer is the caller's business, who can
/// say so in health and log.
const OWN: &[(&str, &str)] = &[
    ("dfs.client.failover.max.attempts", "3"),
    ("dfs.client.failover.sleep.base.millis", "250"),
    ("dfs.client.failover.sleep.max.millis", "2000"),
    // A datanode that is silent for so long is left out, before the step that waits for it is given up.
    ("dfs.client.socket-timeout", "20000"),
];

/// Most time for the answer to one question to a namenode, unless the section says more under [`ANSWER_SETTING`].
const ANSWER_MAX: Duration = Duration::from_secs(30);
const ANSWER_SETTING: &str = "ipc.client.rpc-timeout.ms";

/// What asks the active namenode alone.
const ACTIVE_ALONE: &str = "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider";

/// The files of a Hadoop client, one of which has to be in its folder.
const FILES: [&str; 2] = ["core-site.xml", "hdfs-site.xml"];

/// The names of a nameservice's namenodes, and their addresses: settings whose values Hadoop's own clients trim, and this one does not.
const NAMES: &str = "dfs.ha.namenodes.";
const ADDRESSES: &str = "dfs.namenode.rpc-address.";

type Settings = BTreeMap<String, String>;

pub(in crate::destination) fn store(url: &StoreUrl, options: &Options<'_>) -> Result<HdfsStore, DestinationError> {
    let client =
        |what: String| DestinationError::Client { name: options.name.to_string(), id: options.id.to_string(), what };
    let runtime = RUNTIME.as_ref().map_err(|error| client(format!("start its threads: {error}")))?;
    let text = |option: &str| options.get(option).map(String::from);
    let recipe = Recipe {
        host: url.bucket().to_string(),
        folder: folder(options)?,
        user: text("user"),
        principal: text("principal"),
        keytab: text("keytab"),
        ticket_cache: text("ticket_cache"),
        settings: settings(url, options)?,
        runtime: runtime.handle().clone(),
    };
    if let Some(option) = ["keytab", "ticket_cache"].into_iter().find(|option| options.get(option).is_some())
        && recipe.principal.is_none()
    {
        return Err(options.refused(option, "it goes together with principal"));
    }
    let answer_max = recipe.settings.get(ANSWER_SETTING).and_then(|text| text.trim().parse().ok());
    let answer_max = answer_max.filter(|&ms| ms > 0).map_or(ANSWER_MAX, Duration::from_millis);
    let namenodes = Namenodes::new(Box::new(move |first| recipe.client(first)), answer_max).map_err(|error| {
        let advice = if url.bucket().contains(':') {
            ""
        } else {
            "; a name without a port is that of a nameservice, whose namenodes are in hdfs-site.xml (hadoop_conf) or in `hadoop`"
        };
        client(format!("{error}{advice}"))
    })?;
    Ok(HdfsStore::new(namenodes, url.prefix()))
}

/// The folder of a Hadoop client's files, where the section names it.
fn folder(options: &Options<'_>) -> Result<Option<String>, DestinationError> {
    let Some(folder) = options.get("hadoop_conf").map(|folder| folder.trim_end_matches('/')) else { return Ok(None) };
    if !FILES.iter().any(|name| Path::new(folder).join(name).is_file()) {
        return Err(options.refused("hadoop_conf", "neither core-site.xml nor hdfs-site.xml is in that folder"));
    }
    Ok(Some(folder.to_string()))
}

/// What counts more than the files.
fn settings(url: &StoreUrl, options: &Options<'_>) -> Result<Settings, DestinationError> {
    let mut settings: Settings = OWN.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    settings.extend(trimmed(of_files(options.get("hadoop_conf"))));
    if options.get("principal").is_some() {
        settings.insert("hadoop.security.authentication".to_string(), "kerberos".to_string());
    }
    if !url.bucket().contains(':') {
        // Standbys that answer reads may not show yet what another process has written (stores must list what was just written).
        settings.insert(format!("dfs.client.failover.proxy.provider.{}", url.bucket()), ACTIVE_ALONE.to_string());
    }
    if let Some(text) = options.get("hadoop") {
        let more: Settings = serde_json::from_str(text).map_err(|_| {
            options.refused("hadoop", "it is a table of settings of a Hadoop client, all of them strings")
        })?;
        settings.extend(more.clone());
        settings.extend(trimmed(more));
    }
    Ok(settings)
}

/// What the files of a Hadoop client say, as far as they can be read here. The client itself reads them, too, and tells what is wrong with
/// them.
fn of_files(folder: Option<&str>) -> Settings {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let folder = folder.map(PathBuf::from).or_else(|| variable("HADOOP_CONF_DIR"));
    let folder = folder.or_else(|| variable("HADOOP_HOME").map(|home| home.join("etc/hadoop")));
    let mut found = Settings::new();
    for file in folder.iter().flat_map(|folder| FILES.map(|name| folder.join(name))) {
        if let Ok(text) = std::fs::read_to_string(file) {
            found.extend(of_file(&text));
        }
    }
    found
}

fn of_file(text: &str) -> Settings {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let Ok(document) = roxmltree::Document::parse_with_options(text, options) else { return Settings::new() };
    let properties = document.root_element().children().filter(|node| node.has_tag_name("property"));
    let pair = |property: roxmltree::Node<'_, '_>| {
        let text = |name| Some(property.children().find(|node| node.has_tag_name(name))?.text()?.to_string());
        Some((text("name")?, text("value")?))
    };
    properties.filter_map(pair).collect()
}

/// The namenodes and their addresses, without blanks around them.
fn trimmed(settings: Settings) -> impl Iterator<Item = (String, String)> {
    let about_namenodes = |key: &str| key.starts_with(NAMES) || key.starts_with(ADDRESSES);
    settings
        .into_iter()
        .map(|(key, value)| (key.trim().to_string(), value))
        .filter(move |(key, _)| about_namenodes(key))
        .map(|(key, value)| (key, value.split(',').map(str::trim).collect::<Vec<_>>().join(",")))
}

/// What a client is made of.
struct Recipe {
    /// A namenode with its port, or a nameservice.
    host: String,
    folder: Option<String>,
    user: Option<String>,
    principal: Option<String>,
    keytab: Option<String>,
    ticket_cache: Option<String>,
    settings: Settings,
    runtime: Handle,
}

impl Recipe {
    /// A client that asks the namenodes from that one on.
    fn client(&self, first: usize) -> hdfs_native::Result<Client> {
        let mut settings = self.settings.clone();
        if let Some(names) = settings.get_mut(&format!("{NAMES}{}", self.host)) {
            *names = from(names, first);
        }
        let mut builder = ClientBuilder::new().with_url(format!("hdfs://{}", self.host));
        if let Some(folder) = &self.folder {
            builder = builder.with_config_dir(folder);
        }
        if let Some(user) = &self.user {
            builder = builder.with_user(user);
        }
        if let Some(principal) = &self.principal {
            builder = builder.with_kerberos_principal(principal);
        }
        if let Some(keytab) = &self.keytab {
            builder = builder.with_kerberos_keytab(keytab);
        }
        if let Some(cache) = &self.ticket_cache {
            builder = builder.with_kerberos_cache(cache);
        }
        // The client takes some of its parts from the runtime it is made in.
        let _inside = self.runtime.enter();
        builder.with_config(settings).with_io_runtime(self.runtime.clone()).build()
    }
}

/// The same names, beginning with another one.
fn from(names: &str, first: usize) -> String {
    let mut names: Vec<&str> = names.split(',').collect();
    let first = first % names.len();
    names.rotate_left(first);
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namenodes_are_asked_in_turn() {
        let turns: Vec<_> = (0..4).map(|first| from("nn1,nn2,nn3", first)).collect();
        assert_eq!(turns, ["nn1,nn2,nn3", "nn2,nn3,nn1", "nn3,nn1,nn2", "nn1,nn2,nn3"]);
        assert_eq!(from("nn1", 5), "nn1");
    }

    /// Blanks and line ends around values are usual in these files, and Hadoop's clients take no notice of them.
    #[test]
    fn what_files_say_of_namenodes_is_trimmed() {
        let text = "<?xml version=\"1.0\"?>\n<!DOCTYPE configuration>\n<configuration>\n\
            <property><name>dfs.ha.namenodes.prod</name><value> nn1, nn2\n</value><final>true</final></property>\n\
            <property><name>dfs.namenode.rpc-address.prod.nn1</name><value>\n  nn1:8020\n</value></property>\n\
            <property><name>dfs.blocksize</name><value>134217728</value></property>\n\
            <property><name>dfs.ha.namenodes.other</name></property>\n</configuration>";
        let found: Vec<_> = trimmed(of_file(text)).collect();
        let expected = [("dfs.ha.namenodes.prod", "nn1,nn2"), ("dfs.namenode.rpc-address.prod.nn1", "nn1:8020")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_string(), value.to_string())));
        assert_eq!(of_file("<configuration><property>"), Settings::new());
    }
}
