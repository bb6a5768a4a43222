//! What is asked, of whom, and what each kind of answer counts for. A real registry is in tests/proofs/pipelines.py.

use super::*;
use crate::config::Secret;
use crate::layout::RegistryFormat;
use crate::registry::Registry;
use axum::Router;
use axum::http::{HeaderMap, Uri};
use std::net::SocketAddr;
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
    RegistryConfig { urls, login, ca_file: None }
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
    let registry = Registry::new(&config(&[format!("http://{address}")], None)).expect("settings that work");
    for _ in 0..2 {
        let schema = registry.schema(1, RegistryFormat::Avro).await.expect("an answer").expect("a schema");
        schema.shape().expect("it is whole");
        assert!(registry.schema(9999, RegistryFormat::Avro).await.expect("an answer").is_none());
    }
    let mut asked = asked.lock().expect("no panic before").clone();
    asked.sort();
    let expected = [
        "/schemas/ids/1",
        "/schemas/ids/1/versions",
        "/schemas/ids/9999",
        "/subjects/b/versions/1",
        "/subjects/c%2Fd/versions/2",
    ];
    assert_eq!(asked, expected);
    registry.probe().await.expect_err("no subjects");
}
