//! The client of a destination: its section first, then the files of a Hadoop client.

use super::{HdfsStore, RUNTIME};
use crate::destination::DestinationError;
use crate::destination::cloud::Options;
use crate::destination::url::StoreUrl;
use hdfs_native::ClientBuilder;
use std::collections::BTreeMap;

/// Settings that the destination makes for itself, unless its section names them: waiting longer is the caller's business, who can
/// say so in health and log.
const OWN: &[(&str, &str)] = &[
    ("dfs.client.failover.max.attempts", "3"),
    ("dfs.client.failover.sleep.base.millis", "250"),
    ("dfs.client.failover.sleep.max.millis", "2000"),
    // A datanode that is silent for so long is left out, before the step that waits for it is given up.
    ("dfs.client.socket-timeout", "20000"),
];

/// What asks the active namenode alone.
const ACTIVE_ALONE: &str = "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider";

/// The files of a Hadoop client, one of which has to be in its folder.
const FILES: [&str; 2] = ["core-site.xml", "hdfs-site.xml"];

pub(in crate::destination) fn store(url: &StoreUrl, options: &Options<'_>) -> Result<HdfsStore, DestinationError> {
    let mut settings: BTreeMap<String, String> = OWN.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let mut builder = ClientBuilder::new().with_url(format!("hdfs://{}", url.bucket()));
    if let Some(folder) = options.get("hadoop_conf") {
        let folder = folder.trim_end_matches('/');
        if !FILES.iter().any(|name| std::path::Path::new(folder).join(name).is_file()) {
            return Err(options.refused("hadoop_conf", "neither core-site.xml nor hdfs-site.xml is in that folder"));
        }
        builder = builder.with_config_dir(folder);
    }
    if let Some(user) = options.get("user") {
        builder = builder.with_user(user);
    }
    if let Some(principal) = options.get("principal") {
        settings.insert("hadoop.security.authentication".to_string(), "kerberos".to_string());
        builder = builder.with_kerberos_principal(principal);
    }
    for (option, is_keytab) in [("keytab", true), ("ticket_cache", false)] {
        let Some(value) = options.get(option) else { continue };
        if options.get("principal").is_none() {
            return Err(options.refused(option, "it goes together with principal"));
        }
        builder = if is_keytab { builder.with_kerberos_keytab(value) } else { builder.with_kerberos_cache(value) };
    }
    if !url.bucket().contains(':') {
        // Standbys that answer reads may not show yet what another process has written (stores must list what was just written).
        settings.insert(format!("dfs.client.failover.proxy.provider.{}", url.bucket()), ACTIVE_ALONE.to_string());
    }
    if let Some(text) = options.get("hadoop") {
        let more: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| {
            options.refused("hadoop", "it is a table of settings of a Hadoop client, all of them strings")
        })?;
        // The client takes blanks for parts of names.
        let trimmed = |(key, value): (String, String)| {
            let value = match key.starts_with("dfs.ha.namenodes.") {
                true => value.split(',').map(str::trim).collect::<Vec<_>>().join(","),
                false => value,
            };
            (key, value)
        };
        settings.extend(more.into_iter().map(trimmed));
    }
    let client =
        |what: String| DestinationError::Client { name: options.name.to_string(), id: options.id.to_string(), what };
    let runtime = RUNTIME.as_ref().map_err(|error| client(format!("start its threads: {error}")))?;
    // The client takes some of its parts from the runtime it is made in.
    let built = {
        let _inside = runtime.enter();
        builder.with_config(settings).with_io_runtime(runtime.handle().clone()).build()
    };
    let built = built.map_err(|error| {
        let advice = if url.bucket().contains(':') {
            ""
        } else {
            "; a name without a port is that of a nameservice, whose namenodes are in hdfs-site.xml (hadoop_conf) or in `hadoop`"
        };
        client(format!("{error}{advice}"))
    })?;
    Ok(HdfsStore::new(built, url.prefix()))
}
