//! A BigQuery that keeps ids and jobs as the real one does, over real connections, and writes down what it is asked. Also breaks on demand.

use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What comes of the next load jobs, in their order.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It loads, after that many looks at it.
    Loads { looks: usize },
    /// It fails with this reason.
    Fails { reason: &'static str },
}

/// What happens to the next request of a method.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Break {
    /// It is refused with a status and a reason.
    Refuse(u16, &'static str),
    /// It is answered with what is no JSON.
    Page(u16),
    /// It is done, and its answer is lost.
    Lose,
    /// A job that another process has made is not seen by it.
    Blind,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) headers: String,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    breaks: VecDeque<(&'static str, Break)>,
    outcomes: VecDeque<Outcome>,
    jobs: BTreeMap<String, Job>,
    tables: BTreeMap<String, Value>,
    /// URIs by table and partition.
    loaded: BTreeMap<String, Vec<Value>>,
    now_ms: i64,
}

struct Job {
    body: Value,
    outcome: Outcome,
    is_done: bool,
    created_ms: i64,
    ended_ms: i64,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(crate) async fn start(now_ms: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let fake = Self { endpoint, state: Arc::new(Mutex::new(State { now_ms, ..State::default() })) };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = serving.clone();
                tokio::spawn(async move { fake.serve(stream).await });
            }
        });
        fake
    }

    /// The next request of `method` that is not broken yet is.
    pub(crate) fn breaks(&self, method: &'static str, how: Break) {
        self.state().breaks.push_back((method, how));
    }

    pub(crate) fn outcome(&self, outcome: Outcome) {
        self.state().outcomes.push_back(outcome);
    }

    pub(crate) fn has_table(&self, name: &str, kind: &str) {
        self.state().tables.insert(name.to_string(), json!({"type": kind}));
    }

    /// Somebody drops a table.
    pub(crate) fn drops(&self, name: &str) {
        self.state().tables.remove(name);
    }

    pub(crate) fn advance(&self, ms: i64) {
        self.state().now_ms += ms;
    }

    pub(crate) fn requests(&self, method: &str) -> Vec<Request> {
        self.state().requests.iter().filter(|request| request.method == method).cloned().collect()
    }

    /// Ids of the jobs that are there.
    pub(crate) fn jobs(&self) -> Vec<String> {
        self.state().jobs.keys().cloned().collect()
    }

    /// What a table or partition holds: the URIs that were loaded last.
    pub(crate) fn holds(&self, table: &str) -> Vec<String> {
        let uris = self.state().loaded.get(table).cloned().unwrap_or_default();
        uris.iter().map(|uri| uri.as_str().expect("a text").to_string()).collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let request = read(&mut stream).await?;
        let (status, body) = self.answer(&request)?;
        let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        let kind = if body.starts_with('<') { "text/html" } else { "application/json" };
        stream.write_all(format!("{head}content-type: {kind}\r\n\r\n{body}").as_bytes()).await.ok()
    }

    /// `None`: the connection is closed without an answer.
    fn answer(&self, request: &Request) -> Option<(u16, String)> {
        let mut state = self.state();
        state.requests.push(request.clone());
        state.now_ms += 10;
        let place = state.breaks.iter().position(|(method, _)| *method == request.method);
        let how = place.and_then(|place| state.breaks.remove(place)).map(|(_, how)| how);
        match how {
            Some(Break::Refuse(status, reason)) => return Some((status, refusal(status, reason))),
            Some(Break::Page(status)) => return Some((status, "<html>sorry</html>".to_string())),
            Some(Break::Blind) => return Some((404, refusal(404, "notFound"))),
            Some(Break::Lose) | None => {}
        }
        let (status, body) = state.done(request);
        (!matches!(how, Some(Break::Lose))).then_some((status, body))
    }
}

impl State {
    fn done(&mut self, request: &Request) -> (u16, String) {
        let path = request.path.split('?').next().expect("a part");
        let parts: Vec<_> = path.split('/').skip(4).collect();
        let found = match (request.method.as_str(), parts.as_slice()) {
            ("GET", [_, "datasets", "gone"]) => None,
            ("GET", [_, "datasets", _]) => Some(json!({"location": "europe-west3"})),
            ("GET", [_, "jobs", id]) => self.look(id),
            ("POST", [_, "jobs"]) => {
                let id = request.body["jobReference"]["jobId"].as_str().expect("an id").to_string();
                if self.jobs.contains_key(&id) {
                    return (409, refusal(409, "duplicate"));
                }
                self.begin(&id, request.body.clone());
                self.look(&id)
            }
            ("GET", [_, "datasets", _, "tables", name]) => self.tables.get(*name).cloned(),
            ("POST", [_, "datasets", _, "tables"]) => {
                let name = request.body["tableReference"]["tableId"].as_str().expect("a name").to_string();
                if self.tables.contains_key(&name) {
                    return (409, refusal(409, "duplicate"));
                }
                self.tables.insert(name, json!({"type": "EXTERNAL"}));
                Some(request.body.clone())
            }
            other => panic!("no such request: {other:?}"),
        };
        found.map_or_else(|| (404, refusal(404, "notFound")), |body| (200, body.to_string()))
    }

    fn begin(&mut self, id: &str, body: Value) {
        let loads = body["configuration"]["load"].is_object();
        let planned = if loads { self.outcomes.pop_front() } else { None };
        let outcome = planned.unwrap_or(Outcome::Loads { looks: 0 });
        let job = Job { body, outcome, is_done: false, created_ms: self.now_ms, ended_ms: 0 };
        self.jobs.insert(id.to_string(), job);
    }

    fn look(&mut self, id: &str) -> Option<Value> {
        let now_ms = self.now_ms;
        let job = self.jobs.get_mut(id)?;
        let still_runs = match &mut job.outcome {
            Outcome::Loads { looks } if *looks > 0 => {
                *looks -= 1;
                true
            }
            _ => false,
        };
        if !still_runs && !job.is_done {
            (job.is_done, job.ended_ms) = (true, now_ms);
            let load = &job.body["configuration"]["load"];
            if let (Outcome::Loads { .. }, Some(uris)) = (&job.outcome, load["sourceUris"].as_array()) {
                let table = load["destinationTable"]["tableId"].as_str().expect("a table").to_string();
                let name = table.split('$').next().expect("a name").to_string();
                let made = json!({"type": "TABLE", "creationTime": now_ms.to_string(), "schema": load["schema"]});
                let known = self.tables.entry(name).or_insert(made);
                if load["schema"].is_object() {
                    known["schema"] = load["schema"].clone();
                }
                self.loaded.insert(table, uris.clone());
            }
        }
        let mut answer = job.body.clone();
        answer["statistics"] = json!({"creationTime": job.created_ms.to_string()});
        answer["status"] = json!({"state": if job.is_done { "DONE" } else { "RUNNING" }});
        if job.is_done {
            answer["statistics"]["endTime"] = json!(job.ended_ms.to_string());
            match &job.outcome {
                Outcome::Loads { .. } => {
                    answer["statistics"]["load"] =
                        json!({"outputRows": "1234", "outputBytes": "56789", "inputFiles": "2"});
                }
                Outcome::Fails { reason } => {
                    let result = json!({"reason": reason, "message": "Error while reading data"});
                    let rows: Vec<_> = (0..7)
                        .map(|n| json!({"reason": reason, "location": format!("gs://b/{n}"), "message": format!("row {n} is bad")}))
                        .collect();
                    answer["status"]["errors"] = json!([[result.clone()].as_slice(), &rows].concat());
                    answer["status"]["errorResult"] = result;
                }
            }
        }
        Some(answer)
    }
}

fn refusal(status: u16, reason: &str) -> String {
    let message = format!("told {reason}");
    let errors = [json!({"domain": "global", "reason": reason, "message": message})];
    json!({"error": {"code": status, "message": message, "errors": errors, "status": "PERMISSION_DENIED"}}).to_string()
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let headers = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().expect("a number"));
    while bytes.len() < head_end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut first = head.lines().next()?.split(' ');
    let (method, path) = (first.next()?.to_string(), first.next()?.to_string());
    let body = if length == 0 { Value::Null } else { serde_json::from_slice(&bytes[head_end + 4..]).expect("JSON") };
    Some(Request { method, path, body, headers })
}
