use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use std::net::SocketAddr;

use super::*;
use crate::config::Config;
use crate::domain::ask::{Dialect, DialectSet};
use crate::observe::testing;

const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const LOADING: &str = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;

/// A server that answers each request by its line, and what it was asked, connection by connection.
struct Server {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Server {
    /// `answer` turns `GET /health HTTP/1.1` into bytes.
    async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let n = {
                    let mut log = log.lock().unwrap();
                    log.push(Vec::new());
                    log.len() - 1
                };
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                tokio::spawn(async move {
                    let tell = |request: String| log.lock().unwrap()[n].push(request);
                    talk(stream, answer.as_ref(), tell).await;
                });
            }
        });
        Server { at, asked }
    }

    /// Everything it was asked, on whatever connection.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().concat()
    }

    fn connections(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn talk(mut stream: TcpStream, answer: &(dyn Fn(&str) -> String + Send + Sync), tell: impl Fn(String)) {
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            request.push(byte);
        }
        let head = String::from_utf8(request).unwrap();
        let length = head
            .to_lowercase()
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let line = head.lines().next().unwrap().to_owned();
        tell(head + &String::from_utf8(body).unwrap());
        let bytes = answer(&line);
        if bytes.is_empty() || stream.write_all(bytes.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn reply(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn list(names: &[&str]) -> String {
    let entries: Vec<_> = names.iter().map(|name| format!(r#"{{"id":"{name}","object":"model"}}"#)).collect();
    reply(200, &format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(",")))
}

/// Healthy, with these models.
async fn engine(names: &'static [&'static str]) -> Server {
    Server::start(|line| if line.contains("/v1/models ") { list(names) } else { EMPTY.into() }).await
}

/// The check of the server at this address; its pool serves `small`, as vLLM does.
fn check_of(at: SocketAddr, edit: impl FnOnce(&mut Config)) -> Check {
    let mut config = testing::config(&[at.port()]);
    edit(&mut config);
    let topology = &config.topology;
    Check::new(&topology.pools[0], &topology.models[0], &topology.replicas[0].address, &config.health)
}

async fn verdict(at: SocketAddr, edit: impl FnOnce(&mut Config)) -> Result<(), Failure> {
    check_of(at, edit).run(&Connections::new(), at).await.map(|_| ())
}

/// Whoever answers the health path with `health` and then lists models with `models` gets this verdict.
#[track_caller]
fn judged(
    health: String,
    models: String,
    edit: impl FnOnce(&mut Config),
    expected: Result<(), Failure>,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let shown = format!("{caller}: {health:.200} {models:.200}");
        let server =
            Server::start(move |line| if line.contains("/v1/models ") { models.clone() } else { health.clone() }).await;
        assert_eq!(verdict(server.at, edit).await, expected, "{shown}");
    }
}

fn wrong(names: &[&str]) -> Failure {
    Failure::wrong_model(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), "small")
}

#[tokio::test]
async fn a_replica_lives_and_names_its_model_over_one_connection() {
    let server = engine(&["other", "small"]).await;
    assert_eq!(verdict(server.at, |_| ()).await, Ok(()));
    let asked = server.asked();
    assert_eq!((asked.len(), server.connections()), (2, 1));
    assert!(asked[0].starts_with("GET /health HTTP/1.1\r\n") && asked[1].starts_with("GET /v1/models HTTP/1.1\r\n"));
    let host = format!("host: 127.0.0.1:{}\r\n", server.at.port());
    assert!(asked.iter().all(|request| request.to_lowercase().contains(&host)), "{asked:?}");
}

#[tokio::test]
async fn each_check_has_a_connection_of_its_own() {
    let server = engine(&["small"]).await;
    let (check, connector) = (check_of(server.at, |_| ()), Connections::new());
    for _ in 0..3 {
        assert_eq!(check.run(&connector, server.at).await.map(|_| ()), Ok(()));
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_connection_that_closes_between_two_questions_is_no_failure() {
    for health in ["HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", EMPTY] {
        let server =
            Server::start(move |line| if line.contains("/v1/models ") { list(&["small"]) } else { health.to_owned() });
        let server = server.await;
        assert_eq!(verdict(server.at, |_| ()).await, Ok(()));
    }
    // Closed without a word once the second question is there.
    let told = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |line| match line.contains("/v1/models ") {
        true if told.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => String::new(),
        true => list(&["small"]),
        false => EMPTY.to_owned(),
    });
    let server = server.await;
    assert_eq!(verdict(server.at, |_| ()).await, Ok(()));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn only_a_2xx_is_a_sign_of_life() {
    let fine = || list(&["small"]);
    judged(reply(204, ""), fine(), |_| (), Ok(())).await;
    judged(format!("HTTP/1.1 100 Continue\r\n\r\n{EMPTY}"), fine(), |_| (), Ok(())).await;
    for status in [301, 302, 307, 308, 400, 401, 404, 500, 503] {
        judged(reply(status, ""), fine(), |_| (), Err(Failure::Status(status))).await;
    }
    judged("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n".into(), fine(), |_| (), Err(Failure::Garbage)).await;
    judged("SSH-2.0-OpenSSH\r\n\r\n".into(), fine(), |_| (), Err(Failure::Garbage)).await;
    judged(String::new(), fine(), |_| (), Err(Failure::Reset)).await;
}

#[tokio::test]
async fn a_model_that_is_not_loaded_is_told_from_one_that_is_wrong() {
    let fine = || EMPTY.to_owned();
    judged(reply(503, LOADING), list(&["small"]), |_| (), Err(Failure::NotLoaded)).await;
    judged(fine(), reply(503, LOADING), |_| (), Err(Failure::NotLoaded)).await;
    judged(fine(), list(&[]), |_| (), Err(Failure::NotLoaded)).await;
    judged(fine(), list(&["big"]), |_| (), Err(wrong(&["big"]))).await;
    judged(fine(), list(&["Small", "small "]), |_| (), Err(wrong(&["Small", "small "]))).await;
    let served_as = |config: &mut Config| config.topology.models[0].served_as = "org/small".into();
    judged(fine(), list(&["org/small"]), served_as, Ok(())).await;
}

#[tokio::test]
async fn what_is_no_list_of_models_is_garbage_and_a_redirect_of_it_a_failure() {
    let fine = || EMPTY.to_owned();
    judged(fine(), reply(200, "OK"), |_| (), Err(Failure::Garbage)).await;
    judged(fine(), reply(200, r#"{"data":[{"id":"small"}"#), |_| (), Err(Failure::Garbage)).await;
    judged(
        fine(),
        "HTTP/1.1 302 X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".into(),
        |_| (),
        Err(Failure::Status(302)),
    )
    .await;
    judged(fine(), reply(404, ""), |_| (), Err(Failure::Status(404))).await;
}

#[tokio::test]
async fn llama_cpp_may_call_its_model_what_it_likes() {
    let llama = |config: &mut Config| config.topology.pools[0].engine = Engine::LlamaCpp;
    judged(EMPTY.into(), list(&["/models/x-Q4_K_M.gguf"]), llama, Ok(())).await;
    judged(EMPTY.into(), list(&[]), llama, Err(Failure::NotLoaded)).await;
    judged(reply(503, LOADING), list(&["x"]), llama, Err(Failure::NotLoaded)).await;
}

#[tokio::test]
async fn a_server_of_another_kind_is_asked_for_its_models_alone() {
    let server = engine(&["small"]).await;
    let other = |config: &mut Config| {
        config.topology.pools[0].engine = Engine::OpenAi;
        config.topology.pools[0].credential = Credential::Key("sk-1".into());
        config.topology.replicas[0].address.base_path = "/team-a".into();
    };
    assert_eq!(verdict(server.at, other).await, Ok(()));
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("GET /team-a/v1/models HTTP/1.1\r\n"), "{asked:?}");
    assert!(asked[0].to_lowercase().contains("authorization: bearer sk-1\r\n"), "{asked:?}");
}

#[tokio::test]
async fn the_key_goes_to_v1_only() {
    let server = engine(&["small"]).await;
    let key = |config: &mut Config| config.topology.pools[0].credential = Credential::Key("sk-1".into());
    assert_eq!(verdict(server.at, key).await, Ok(()));
    let with_key: Vec<bool> = server.asked().iter().map(|request| request.contains("sk-1")).collect();
    assert_eq!(with_key, [false, true]);
    assert!(!format!("{:?}", check_of(server.at, key)).contains("sk-1"));
}

#[tokio::test]
async fn where_clients_bring_the_key_a_401_is_a_sign_of_life() {
    let refused = || reply(401, "{}");
    judged(EMPTY.into(), refused(), |_| (), Err(Failure::Status(401))).await;
    let pass = |config: &mut Config| config.topology.pools[0].credential = Credential::Pass;
    judged(EMPTY.into(), refused(), pass, Ok(())).await;
    judged(EMPTY.into(), list(&["big"]), pass, Err(wrong(&["big"]))).await;
    assert!(!check_of(([127, 0, 0, 1], 1).into(), pass).can_generate());
}

#[tokio::test]
async fn the_configuration_says_what_is_asked() {
    for (engine_kind, path, check_model, expected) in [
        (Engine::Vllm, None, true, &["/health", "/v1/models"][..]),
        (Engine::Vllm, None, false, &["/health"]),
        (Engine::Vllm, Some("/ready?deep=1"), true, &["/ready?deep=1", "/v1/models"]),
        (Engine::Vllm, Some("/v1/models"), true, &["/v1/models"]),
        (Engine::Vllm, Some("/v1/models"), false, &["/v1/models"]),
        (Engine::OpenAi, None, true, &["/v1/models"]),
        (Engine::OpenAi, None, false, &["/v1/models"]),
        (Engine::OpenAi, Some("/ping"), true, &["/ping", "/v1/models"]),
        (Engine::OpenAi, Some("/ping"), false, &["/ping"]),
    ] {
        // Without the check of the model, its name does not matter either.
        let server = engine(if check_model { &["small"] } else { &["big"] }).await;
        let edit = |config: &mut Config| {
            config.topology.pools[0].engine = engine_kind;
            config.health.path = path.map(str::to_owned);
            config.health.check_model = check_model;
        };
        assert_eq!(verdict(server.at, edit).await, Ok(()), "{expected:?}");
        let asked = server.asked();
        let paths: Vec<_> = asked.iter().map(|request| request.split(' ').nth(1).unwrap()).collect();
        assert_eq!(paths, expected);
    }
}

/// A server that sends this head and then the same piece again and again, as long as somebody reads; it tells how many
/// bytes it could send.
async fn endless(head: &'static str, piece: &'static str) -> (SocketAddr, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let sent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let (pieces, mut sent) = (piece.repeat(1000), 0);
        while stream.write_all(pieces.as_bytes()).await.is_ok() {
            sent += pieces.len();
        }
        sent
    });
    (at, sent)
}

#[tokio::test]
async fn an_endless_list_of_models_is_cut_off() {
    let openai = |config: &mut Config| {
        config.topology.pools[0].engine = Engine::OpenAi;
        config.health.timeout = Duration::from_secs(60);
    };
    let (at, sent) =
        endless("HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n{\"data\":[", "{\"id\":\"x\"},").await;
    assert_eq!(verdict(at, openai).await, Err(Failure::Garbage));
    let sent = sent.await.unwrap();
    // What lies in the sockets' buffers was sent too.
    assert!(sent < 32 << 20, "{sent} of 104857600 bytes were taken");
}

#[tokio::test]
async fn silence_fails_in_time_wherever_it_begins() {
    let short = |config: &mut Config| config.health.timeout = Duration::from_millis(50);
    judged("HTTP/1.1 200".into(), String::new(), short, Err(Failure::Timeout)).await;
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":".to_owned();
    judged(EMPTY.into(), half, short, Err(Failure::Timeout)).await;
    let call = check_of(Server::start(|_| "HTTP/1.1 200".into()).await.at, |config| {
        config.health.generation_timeout = Duration::from_millis(50);
    });
    let at = SocketAddr::new([127, 0, 0, 1].into(), call.address.port);
    assert_eq!(call.generate(&Connections::new(), at).await, Err(Failure::Timeout));
}

#[tokio::test]
async fn a_closed_port_and_a_port_without_tls_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(verdict(at, |_| ()).await, Err(Failure::Refused));
    let plain = Server::start(|_| EMPTY.into()).await;
    let tls = |config: &mut Config| config.topology.replicas[0].address.tls = true;
    // A TLS client's hello never looks like the end of a head, so the server would read on; it is cut off here.
    let hangs_up = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = hangs_up.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = hangs_up.accept().await {
            let _ = stream.read(&mut [0; 16]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    assert_eq!(verdict(at, tls).await, Err(Failure::Tls));
    drop(plain);
}

/// What a call of one token is answered with, and what is thought of it.
#[track_caller]
fn called(answer: String, expected: Result<(), Failure>) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let shown = format!("{caller}: {answer}");
        let server = Server::start(move |_| answer.clone()).await;
        let check = check_of(server.at, |_| ());
        assert_eq!(check.generate(&Connections::new(), server.at).await, expected, "{shown}");
    }
}

#[tokio::test]
async fn a_call_of_one_token_must_be_answered_whole() {
    let good = r#"{"choices":[{"message":{"content":"Hi"}}]}"#;
    called(reply(200, good), Ok(())).await;
    for bad in [&good[..20], "", r#"{"error":{"message":"CUDA error"}}"#] {
        called(reply(200, bad), Err(Failure::Garbage)).await;
    }
    for status in [302, 500, 502, 503] {
        called(reply(status, "{}"), Err(Failure::Status(status))).await;
    }
    called(reply(503, LOADING), Err(Failure::NotLoaded)).await;
}

#[tokio::test]
async fn an_engine_that_refuses_the_calls_wording_or_is_busy_lives_and_refused_keys_are_told() {
    for status in [400, 404, 422, 429] {
        called(reply(status, "{}"), Ok(())).await;
    }
    for status in [401, 403] {
        called(reply(status, "{}"), Err(Failure::Status(status))).await;
    }
}

#[tokio::test]
async fn a_call_goes_out_as_agents_calls_do() {
    let server = Server::start(|_| reply(200, r#"{"content":[]}"#)).await;
    let check = check_of(server.at, |config| {
        let pool = &mut config.topology.pools[0];
        pool.dialects = DialectSet::default().with(Dialect::Messages);
        pool.credential = Credential::Key("sk-1".into());
        config.topology.models[0].served_as = "org/small".into();
        config.topology.replicas[0].address.base_path = "/base".into();
    });
    assert_eq!(check.generate(&Connections::new(), server.at).await, Ok(()));
    let asked = server.asked().remove(0);
    assert!(asked.starts_with("POST /base/v1/messages HTTP/1.1\r\n"), "{asked}");
    let lower = asked.to_lowercase();
    for line in
        ["authorization: bearer sk-1\r\n", "content-type: application/json\r\n", "anthropic-version: 2023-06-01\r\n"]
    {
        assert!(lower.contains(line), "{asked}");
    }
    assert!(asked.contains(r#"{"model":"org/small","#) && asked.contains(r#""max_tokens":1"#), "{asked}");
}

#[tokio::test]
async fn h2c_is_spoken_where_the_address_says_so() {
    use http_body_util::{BodyExt, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let log = Arc::clone(&log);
                    async move {
                        let path = request.uri().path().to_owned();
                        // A GET ends with its head; a stream that is left open would wait here.
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        log.lock().unwrap().push((connection, path, body.len()));
                        let list = r#"{"data":[{"id":"small"}]}"#;
                        Ok::<_, hyper::Error>(hyper::Response::new(Full::<Bytes>::from(list)))
                    }
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let check = check_of(at, |config| config.topology.replicas[0].address.http2 = true);
    let connector = Connections::new();
    assert_eq!(check.run(&connector, at).await.map(|_| ()), Ok(()));
    assert_eq!(check.generate(&connector, at).await, Ok(()));
    let asked = asked.lock().unwrap().clone();
    let paths: Vec<_> = asked.iter().map(|(connection, path, _)| (*connection, path.as_str())).collect();
    assert_eq!(paths, [(0, "/health"), (0, "/v1/models"), (1, "/v1/chat/completions")]);
    assert!(asked[0].2 == 0 && asked[1].2 == 0 && asked[2].2 > 0);
}
