//! Single requests to BigQuery. Nothing here tries twice.

use super::TableRef;
use super::fault::{LoadFault, LoadFaultKind};
use crate::effect::{Effect, requests};
use google_cloud_auth::credentials::Credentials as Login;
use google_cloud_bigquery_v2::client::{DatasetService, JobService, TableService};
use google_cloud_bigquery_v2::model::{Job, Table};
use google_cloud_gax::client_builder::Result as Built;
use google_cloud_gax::error::Error;
use google_cloud_gax::options::RequestOptionsBuilder;
use google_cloud_gax::retry_policy::NeverRetry;
use std::time::Duration;

/// What became of a request that makes something.
pub(super) enum Asked<T> {
    /// It is made.
    Made(T),
    /// Its name is taken.
    Taken,
}

pub(super) struct Api {
    jobs: JobService,
    tables: TableService,
    datasets: DatasetService,
    project: String,
    answer_wait: Duration,
}

impl Api {
    pub(super) async fn new(
        project: String,
        endpoint: Option<&str>,
        login: Login,
        answer_wait: Duration,
    ) -> Result<Self, LoadFault> {
        let made = async {
            let mut jobs = JobService::builder().with_credentials(login.clone()).with_retry_policy(NeverRetry);
            let mut tables = TableService::builder().with_credentials(login.clone()).with_retry_policy(NeverRetry);
            let mut datasets = DatasetService::builder().with_credentials(login).with_retry_policy(NeverRetry);
            if let Some(endpoint) = endpoint {
                jobs = jobs.with_endpoint(endpoint);
                tables = tables.with_endpoint(endpoint);
                datasets = datasets.with_endpoint(endpoint);
            }
            Built::Ok((jobs.build().await?, tables.build().await?, datasets.build().await?))
        };
        let (jobs, tables, datasets) = made.await.map_err(|error| {
            let kind = if error.is_default_credentials() { LoadFaultKind::Login } else { LoadFaultKind::Invalid };
            LoadFault::new(kind, format!("no client of BigQuery can be made: {error}"))
        })?;
        Ok(Self { jobs, tables, datasets, project, answer_wait })
    }

    pub(super) fn project(&self) -> &str {
        &self.project
    }

    /// The job of that id; `None` where there is none.
    pub(super) async fn job(&self, job_id: &str, location: &str) -> Result<Option<Job>, LoadFault> {
        let request = self.jobs.get_job().set_project_id(&self.project).set_job_id(job_id).set_location(location);
        let answer = request.with_attempt_timeout(self.answer_wait).send().await;
        found(&format!("look for job {job_id}"), answer)
    }

    pub(super) async fn make_job(&self, effect: Effect, job_id: &str, job: Job) -> Result<Asked<Job>, LoadFault> {
        let request = self.jobs.insert_job().set_project_id(&self.project).set_job(job);
        let sent = requests::ask(effect, request.with_attempt_timeout(self.answer_wait).send());
        asked(&format!("start job {job_id}"), sent.await)
    }

    /// Where the dataset is.
    pub(super) async fn location(&self, table: &TableRef) -> Result<String, LoadFault> {
        let request = self.datasets.get_dataset().set_project_id(&table.project).set_dataset_id(&table.dataset);
        let answer = request.with_attempt_timeout(self.answer_wait).send().await;
        let what = format!("look for dataset {}.{}", table.project, table.dataset);
        Ok(answer.map_err(|error| LoadFault::of(&what, &error))?.location)
    }

    pub(super) async fn table(&self, table: &TableRef) -> Result<Option<Table>, LoadFault> {
        let request = self.tables.get_table().set_project_id(&table.project).set_dataset_id(&table.dataset);
        let answer = request.set_table_id(&table.table).with_attempt_timeout(self.answer_wait).send().await;
        found(&format!("look for table {table}"), answer)
    }

    pub(super) async fn make_table(
        &self,
        effect: Effect,
        name: &TableRef,
        table: Table,
    ) -> Result<Asked<Table>, LoadFault> {
        let request = self.tables.insert_table().set_project_id(&name.project).set_dataset_id(&name.dataset);
        let request = request.set_table(table).with_attempt_timeout(self.answer_wait);
        asked(&format!("make table {name}"), requests::ask(effect, request.send()).await)
    }
}

fn found<T>(what: &str, answer: Result<T, Error>) -> Result<Option<T>, LoadFault> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.http_status_code() == Some(404) => Ok(None),
        Err(error) => Err(LoadFault::of(what, &error)),
    }
}

fn asked<T>(what: &str, answer: Result<T, Error>) -> Result<Asked<T>, LoadFault> {
    match answer {
        Ok(made) => Ok(Asked::Made(made)),
        Err(error) if error.http_status_code() == Some(409) => Ok(Asked::Taken),
        Err(error) => Err(LoadFault::of(what, &error)),
    }
}
