//! What is asked, of whom, and what each kind of answer counts for. A real registry is in tests/proofs/pipelines.py.

use super::*;
use crate::clock::ManualClock;
use crate::config::Secret;
use crate::layout::RegistryFormat;
use crate::registry::{Lookup, Registry};
use axum::Router;
use axum::http::{HeaderMap, Uri};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A server that answers every path as `answer` says, and keeps what it was asked.
async fn server(
    answer: impl Fn(&str, &HeaderMap) -> (u16, &'static str) + Clone + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let keep = asked.clone();
    let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
        let (keep, answer) = (keep.clone(), answer.clone());
        async move {
            keep.lock().expect("no panic before").push(uri.path().to_string());
            let (status, body) = answer(uri.path(), &headers);
            (StatusCode::from_u16(status).expect("a status"), body)
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, asked)
}

fn config(urls: &[String], login: Option<RegistryLogin>) -> RegistryConfig {
    let urls = urls.iter().map(|url| Url::parse(url).expect("a URL")).collect();
    RegistryConfig { urls, login, ca_file: None, unknown_ids: BTreeSet::new() }
}

/// A registry at that address and clock that does not pause before it looks again.
fn registry(address: SocketAddr, clock: &Arc<ManualClock>) -> Registry {
    let registry = Registry::new(&config(&[format!("http://{address}")], None)).expect("settings that work");
    registry.by_clock(clock.clone())
}

fn client(urls: &[String], login: Option<RegistryLogin>) -> Client {
    Client::new(&config(urls, login)).expect("settings that work")
}

#[tokio::test]
async fn the_path_is_kept_and_the_login_sent() {
    let (address, asked) = server(|_, headers| {
        let login = headers.get("Authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match login {
            "Basic dTpw" | "Bearer t" => (200, r#"{"schema":"\"int\"","guid":"later fields do not disturb"}"#),
            _ => (401, "who are you"),
        }
    })
    .await;
    let url = [format!("http://{address}/api/v7/")];
    for login in [RegistryLogin::Basic("u".to_string(), Secret::new("p")), RegistryLogin::Bearer(Secret::new("t"))] {
        let found = client(&url, Some(login)).by_id(7).await.expect("an answer").expect("a schema");
        assert_eq!((found.schema.as_str(), found.kind), ("\"int\"", None));
    }
    let refused = client(&url, None).by_id(7).await.expect_err("no login");
    assert!(matches!(refused, RegistryError::Refused { status: 401, .. }), "{refused:?}");
    assert_eq!(*asked.lock().expect("no panic before"), vec!["/api/v7/schemas/ids/7"; 3]);
}

#[tokio::test]
async fn only_the_api_itself_says_that_there_is_none() {
    let cases = [
        (404, r#"{"error_code":40403,"message":"Schema not found"}"#, true),
        (404, r#"{"error_code":40401,"message":"as another server has it"}"#, true),
        (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#, false),
        (404, "<html>no such page</html>", false),
        (500, r#"{"error_code":50001,"message":"store"}"#, false),
        (503, "", false),
        (200, "<html>log in here</html>", false),
    ];
    for (status, body, is_none) in cases {
        let (address, _) = server(move |_, _| (status, body)).await;
        match client(&[format!("http://{address}")], None).by_id(7).await {
            Ok(found) => assert!(is_none && found.is_none(), "{status} {body}"),
            Err(error) => {
                assert!(!is_none, "{status} {body}: {error}");
                assert!(error.to_string().starts_with("ask the schema registry for schemas/ids/7: http://"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn the_next_url_is_asked_where_one_does_not_answer() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let (ill, _) = server(|_, _| (500, "ill")).await;
    let (well, asked) = server(|_, _| (200, r#"[{"subject":"s","version":2}]"#)).await;
    let urls = [closed, ill, well].map(|address| format!("http://{address}"));
    let found = client(&urls, None).versions(7).await.expect("an answer");
    assert_eq!((found[0].subject.as_str(), found[0].version), ("s", 2));
    assert_eq!(*asked.lock().expect("no panic before"), ["/schemas/ids/7/versions"]);
    let nobody = client(&urls[..2], None).versions(7).await.expect_err("nobody");
    let text = nobody.to_string();
    assert!(
        text.contains(&urls[0]) && text.contains(&format!("{}: 500 Internal Server Error: ill", urls[1])),
        "{text}"
    );
}

#[tokio::test]
async fn the_next_url_is_asked_where_one_refuses_the_login() {
    let (strict, _) = server(|_, _| (403, "who are you")).await;
    let (stricter, _) = server(|_, _| (401, "who are you")).await;
    let (well, _) = server(|path, _| if path == "/schemas/ids/1" { INT } else { NONE }).await;
    let (ill, _) = server(|_, _| (500, "ill")).await;
    let url = |address: SocketAddr| format!("http://{address}");
    let found = client(&[url(strict), url(well)], None).by_id(1).await.expect("an answer");
    assert!(found.is_some());
    // What one URL keeps to itself may be there, whatever the others say.
    for others in [[well, ill], [ill, well], [stricter, well]] {
        let urls = [strict, others[0], others[1]].map(url);
        let refused = client(&urls, None).by_id(7).await.expect_err("nobody tells");
        let expected = RegistryError::Refused { what: "schemas/ids/7".to_string(), url: url(strict), status: 403 };
        assert_eq!(refused, expected, "the first that refused is named");
    }
    client(&[url(well), url(strict)], None).by_id(7).await.expect_err("the last one may know it");
}

#[tokio::test]
async fn what_a_schema_refers_to_is_asked_for_once() {
    const A: &str = r#"{"schemaType":"AVRO","schema":"{\"type\":\"record\",\"name\":\"A\",\"fields\":[{\"name\":\"b\",\"type\":\"B\"},{\"name\":\"c\",\"type\":\"C\"}]}",
        "references":[{"name":"B","subject":"b","version":1},{"name":"C","subject":"c/d","version":2}]}"#;
    const B: &str = r#"{"schema":"{\"type\":\"record\",\"name\":\"B\",\"fields\":[{\"name\":\"c\",\"type\":\"C\"}]}","references":[{"name":"C","subject":"c/d","version":2}]}"#;
    let (address, asked) = server(|path, _| match path {
        "/schemas/ids/1" => (200, A),
        "/subjects/b/versions/1" => (200, B),
        "/subjects/c%2Fd/versions/2" => (200, r#"{"schema":"{\"type\":\"enum\",\"name\":\"C\",\"symbols\":[\"x\"]}"}"#),
        "/schemas/ids/1/versions" => (200, r#"[{"subject":"a","version":1}]"#),
        _ => (404, r#"{"error_code":40403}"#),
    })
    .await;
    let registry = registry(address, &Arc::default());
    for _ in 0..2 {
        let schema = registry.schema(1, RegistryFormat::Avro).await.expect("an answer").expect("a schema");
        schema.shape().expect("it is whole");
        // It may be new to the registry, so it is looked for again.
        assert!(registry.schema(9999, RegistryFormat::Avro).await.expect("an answer").is_none());
    }
    let mut asked = asked.lock().expect("no panic before").clone();
    asked.sort();
    let expected = [
        "/schemas/ids/1",
        "/schemas/ids/1/versions",
        "/schemas/ids/9999",
        "/schemas/ids/9999",
        "/schemas/ids/9999",
        "/schemas/ids/9999",
        "/subjects/b/versions/1",
        "/subjects/c%2Fd/versions/2",
    ];
    assert_eq!(asked, expected);
    registry.probe().await.expect_err("no subjects");
}

const NONE: (u16, &str) = (404, r#"{"error_code":40403,"message":"Schema not found"}"#);
const INT: (u16, &str) = (200, r#"{"schema":"\"int\""}"#);

/// Goal: a stray record of one archive does no harm to another archive, which reads the same schema as what it is.
#[tokio::test]
async fn a_schema_is_what_the_asker_reads() {
    let (address, _) = server(|path, _| if path == "/schemas/ids/1" { INT } else { NONE }).await;
    let registry = registry(address, &Arc::default());
    for (format, is_usable) in
        [(RegistryFormat::Protobuf, false), (RegistryFormat::Avro, true), (RegistryFormat::Protobuf, false)]
    {
        let schema = registry.schema(1, format).await.expect("an answer").expect("a schema");
        assert_eq!(schema.shape().is_ok(), is_usable, "{format:?}: {schema:?}");
    }
    let Lookup::NotAsked = registry.answer(1, RegistryFormat::JsonSchema) else { panic!("nobody has asked for it") };
}

/// Goal: a server that does not know a new schema yet makes dead letters for about a minute, and nobody waits for it meanwhile.
#[tokio::test]
async fn an_unknown_id_is_asked_for_again_after_a_minute() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (address, _) = server(move |path, _| match path {
        // The first time it is looked for four times.
        "/schemas/ids/5000" => match count.fetch_add(1, Ordering::SeqCst) {
            0..4 => NONE,
            _ => INT,
        },
        _ => NONE,
    })
    .await;
    let clock = Arc::new(ManualClock::default());
    let registry = registry(address, &clock);
    let avro = RegistryFormat::Avro;
    assert!(registry.schema(5000, avro).await.expect("an answer").is_none());
    assert!(!registry.looks_again(4000), "nobody has asked for it");
    clock.advance(59_999);
    assert!(!registry.looks_again(5000));
    clock.advance(1);
    assert!(registry.looks_again(5000));
    assert!(!registry.looks_again(5000), "once");
    registry.look_again(5000, avro).await;
    assert!(!registry.looks_again(5000), "it is known");
    assert!(matches!(registry.answer(5000, avro), Lookup::Known(_)));
}

/// Goal: an outage makes no dead letters of a schema that was registered since the registry was last asked; and payloads that begin
/// like the wire format by chance hold up nobody.
#[tokio::test]
async fn without_an_answer_an_unknown_id_is_unknown_no_more() {
    let is_down = Arc::new(AtomicUsize::new(0));
    let down = is_down.clone();
    let (address, _) = server(move |_, _| if down.load(Ordering::SeqCst) > 0 { (503, "") } else { NONE }).await;
    let clock = Arc::new(ManualClock::default());
    let registry = registry(address, &clock);
    let avro = RegistryFormat::Avro;
    for (ids, expected) in [(&[70_000, 80_000, 90_000][..], 0), (&[42, 70_000, 80_000, 90_000, 95_000], 4)] {
        is_down.store(0, Ordering::SeqCst);
        for &id in ids {
            assert!(registry.schema(id, avro).await.expect("an answer").is_none(), "{id}");
        }
        is_down.store(1, Ordering::SeqCst);
        clock.advance(60_000);
        for &id in ids {
            assert!(registry.looks_again(id), "{id}");
            registry.look_again(id, avro).await;
        }
        let unknown = ids.iter().filter(|&&id| matches!(registry.answer(id, avro), Lookup::Unknown));
        assert_eq!(unknown.count(), expected, "{ids:?}");
    }
    assert!(matches!(registry.answer(42, avro), Lookup::NotAsked), "the next id that there would be");
    registry.schema(42, avro).await.expect_err("whoever asks waits");
}

/// Goal: an id is looked for twice wherever it is above the known ones, unless so many are unknown that they are chance.
#[tokio::test]
async fn an_id_above_all_others_is_looked_for_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (address, paths) = server(move |path, _| match path {
        "/schemas/ids/1" => INT,
        "/schemas/ids/70000" if count.fetch_add(1, Ordering::SeqCst) > 0 => INT,
        _ => NONE,
    })
    .await;
    let registry = registry(address, &Arc::default());
    for id in [1, 70_000] {
        assert!(registry.schema(id, RegistryFormat::Avro).await.expect("an answer").is_some(), "{id}");
    }
    paths.lock().expect("no panic before").clear();
    for id in (100_000..100_030).chain([70_100]) {
        assert!(registry.schema(id, RegistryFormat::Avro).await.expect("an answer").is_none());
    }
    let paths = paths.lock().expect("no panic before");
    let looks = |id: u32| paths.iter().filter(|path| path.ends_with(&format!("/{id}"))).count();
    assert_eq!([looks(100_000), looks(100_002), looks(100_003), looks(100_029), looks(70_100)], [4, 4, 1, 1, 4]);
}

/// Goal: a schema of which a part is gone holds up nobody; one whose part cannot be asked for is waited for.
#[tokio::test]
async fn a_schema_that_misses_a_part_is_unknown() {
    const WHOLE: &str = r#"{"schema":"\"B\"","references":[{"name":"B","subject":"b","version":1}]}"#;
    for (answer, is_unknown) in [
        ((404, r#"{"error_code":40401,"message":"Subject not found"}"#), true),
        ((503, ""), false),
        ((404, "no"), false),
    ] {
        let (address, _) = server(move |path, _| if path == "/schemas/ids/1" { (200, WHOLE) } else { answer }).await;
        let registry = registry(address, &Arc::default());
        match registry.schema(1, RegistryFormat::Avro).await {
            Ok(found) => assert!(is_unknown && found.is_none(), "{answer:?}"),
            Err(error) => assert!(!is_unknown, "{answer:?}: {error}"),
        }
    }
}
