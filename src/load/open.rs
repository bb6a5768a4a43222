//! Loaders, as the configuration has them.

use super::Setup;
use super::bigquery::{BigQuery, Credentials, Granularity, Pace, Settings, granularity};
use super::bigquery_loader::{BigQueryLoader, Into};
use super::hive::{HiveSettings, HiveTls, Metastore, TableRights};
use super::hive_loader::HiveLoader;
use super::origin::Origin;
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
        // All that decides what is loaded and where.
        let place = load.place();
        let what = [place.0.as_str(), &place.1, &place.2, &load.output, &load.destination];
        let id = Setup::id_of(&load.name, &what);
        let origin = shared.origin(load, output);
        let loader: Arc<dyn super::Loader> = match &load.to {
            LoadTo::Hive(to) => Arc::new(hive(id.clone(), place.0, to, origin).map_err(failed)?),
            LoadTo::BigQuery(to) => Arc::new(shared.bigquery(id.clone(), to, origin).await.map_err(failed)?),
        };
        setups.push(Setup {
            output: Some(load.output.clone()),
            destination: Some(load.destination.clone()),
            since_ms: load.since_ms,
            ..Setup::new(&load.name, id, loader)
        });
    }
    Ok(setups)
}

impl Shared<'_> {
    fn origin(&self, load: &LoadConfig, output: &OutputLayout) -> Origin {
        let section = self.config.destinations.get(&load.destination_name);
        let topics = &self.archive.topics;
        let marker = self.archive.complete.as_ref().map(|complete| complete.marker.clone());
        Origin {
            layout: self.archive.layout.clone(),
            output: output.clone(),
            topics: if topics.patterns.is_empty() { topics.names.clone() } else { Vec::new() },
            store: Store::new(&load.destination, |name| Some(section?.options.get(name)?.reveal().to_string())),
            marker: marker.unwrap_or_default(),
            bucket: self.bucket.clone(),
            clock: self.clock.clone(),
            registry: self.registry.cloned(),
        }
    }

    async fn bigquery(&self, id: String, to: &BigQueryLoad, origin: Origin) -> Result<BigQueryLoader, String> {
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
        let place = &origin.output.place;
        let granularity = granularity(&place.path, &place.zone);
        let into = match &granularity {
            _ if to.external => Into::External,
            _ if to.table.contains('%') => Into::Table,
            Ok(granularity) => Into::Partition { granularity: *granularity, field: to.partition_field.clone() },
            Err(misfit) => return Err(misfit.to_string()),
        };
        Ok(BigQueryLoader {
            id,
            bigquery: BigQuery::connect(settings, self.clock.clone()).await.map_err(|fault| fault.to_string())?,
            project: to.project.clone(),
            dataset: to.dataset.clone(),
            table: to.table.clone(),
            into,
            granularity: granularity.unwrap_or(Granularity::Hour),
            origin,
        })
    }
}

fn hive(id: String, place: String, to: &HiveLoad, origin: Origin) -> Result<HiveLoader, String> {
    let tls = to.tls.then(|| HiveTls { ca_file: to.ca_file.clone() });
    let settings = HiveSettings { uris: to.uris.clone(), tls, user: to.user.clone() };
    Ok(HiveLoader {
        id,
        metastore: Metastore::new(&settings).map_err(|error| error.to_string())?,
        place,
        database: to.database.clone(),
        table: to.table.clone(),
        rights: TableRights { create: to.create, add_columns: to.add_columns },
        location: to.location.clone(),
        parameters: to.parameters.clone(),
        origin,
    })
}
