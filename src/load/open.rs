//! Loaders, as the configuration has them.

use super::Setup;
use super::bigquery::{BigQuery, Credentials, Granularity, Pace, Settings, granularity};
use super::bigquery_loader::{BigQueryLoader, Into};
use super::hive::{HiveSettings, HiveTls, Metastore, TableRights};
use super::hive_loader::HiveLoader;
use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::config::{ArchiveConfig, BigQueryLoad, Config, HiveLoad, LoadConfig, LoadTo};
use crate::ddl::Store;
use crate::exit::{Exit, Failure};
use crate::layout::OutputLayout;
use crate::registry::Registry;
use std::sync::Arc;

/// What loaders of an archive share.
pub struct Shared<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The archive in it.
    pub archive: &'a ArchiveConfig,
    /// Its bucket.
    pub bucket: &'a Bucket,
    /// The time.
    pub clock: &'a Arc<dyn Clock>,
    /// Where schemas are asked for.
    pub registry: Option<&'a Arc<Registry>>,
}

/// Opens them. Nobody is asked, but for a login of the machine's.
///
/// # Errors
/// [`Exit::Config`]: a setting that cannot be used.
pub async fn open(shared: &Shared<'_>) -> Result<Vec<Setup>, Failure> {
    let mut setups = Vec::new();
    for load in &shared.archive.loads {
        let failed = |why: String| {
            Failure::new(Exit::Config, format!("archive {}, loader {}: {why}", shared.archive.name, load.name))
        };
        let output = shared.archive.layout.outputs.iter().find(|output| output.name == load.output);
        let output = output.ok_or_else(|| failed(format!("there is no output {}", load.output)))?;
        let loader: Arc<dyn super::Loader> = match &load.to {
            LoadTo::Hive(hive) => Arc::new(shared.hive(load, hive, output).map_err(failed)?),
            LoadTo::BigQuery(to) => Arc::new(shared.bigquery(load, to, output).await.map_err(failed)?),
        };
        setups.push(Setup {
            name: load.name.clone(),
            output: Some(load.output.clone()),
            destination: Some(load.destination.clone()),
            loader,
        });
    }
    Ok(setups)
}

impl Shared<'_> {
    fn store(&self, load: &LoadConfig) -> Store {
        let section = self.config.destinations.get(&load.destination_name);
        Store::new(&load.destination, |name| Some(section?.options.get(name)?.reveal().to_string()))
    }

    fn topics(&self) -> Vec<String> {
        let topics = &self.archive.topics;
        if topics.patterns.is_empty() { topics.names.clone() } else { Vec::new() }
    }

    fn hive(&self, load: &LoadConfig, to: &HiveLoad, output: &OutputLayout) -> Result<HiveLoader, String> {
        let tls = to.tls.then(|| HiveTls { ca_file: to.ca_file.clone() });
        let settings = HiveSettings { uris: to.uris.clone(), tls, user: to.user.clone() };
        Ok(HiveLoader {
            name: load.name.clone(),
            metastore: Metastore::new(&settings).map_err(|error| error.to_string())?,
            database: to.database.clone(),
            table: to.table.clone(),
            rights: TableRights { create: to.create, add_columns: to.add_columns },
            location: to.location.clone(),
            parameters: to.parameters.clone(),
            layout: self.archive.layout.clone(),
            output: output.clone(),
            topics: self.topics(),
            store: self.store(load),
            bucket: self.bucket.clone(),
            clock: self.clock.clone(),
            registry: self.registry.cloned(),
        })
    }

    async fn bigquery(
        &self,
        load: &LoadConfig,
        to: &BigQueryLoad,
        output: &OutputLayout,
    ) -> Result<BigQueryLoader, String> {
        let credentials = match (&to.credentials_file, &to.endpoint) {
            (Some(file), _) => Credentials::File(file.clone()),
            (None, Some(_)) => Credentials::Nobody,
            (None, None) => Credentials::Application,
        };
        let settings = Settings {
            project: to.project.clone(),
            location: to.location.clone(),
            endpoint: to.endpoint.clone(),
            credentials,
            labels: to.labels.clone(),
            pace: Pace::default(),
        };
        let granularity = granularity(&output.place.path, &output.place.zone);
        let into = match &granularity {
            _ if to.external => Into::External,
            _ if to.table.contains('%') => Into::Table,
            Ok(granularity) => Into::Partition { granularity: *granularity, field: to.partition_field.clone() },
            Err(misfit) => return Err(misfit.to_string()),
        };
        Ok(BigQueryLoader {
            name: load.name.clone(),
            bigquery: BigQuery::connect(settings, self.clock.clone()).await.map_err(|fault| fault.to_string())?,
            project: to.project.clone(),
            dataset: to.dataset.clone(),
            table: to.table.clone(),
            into,
            granularity: granularity.unwrap_or(Granularity::Hour),
            layout: self.archive.layout.clone(),
            output: output.clone(),
            topics: self.topics(),
            store: self.store(load),
            bucket: self.bucket.clone(),
            clock: self.clock.clone(),
            registry: self.registry.cloned(),
        })
    }
}
