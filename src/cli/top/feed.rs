//! Follows an edge: what it tells by `/events`, again and again when it was gone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use nearpool::sim::client::{Client, ClientError};
use nearpool::wire::sse::Framer;
use nearpool::wire::status::{Status, Told, told};
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};

use super::super::page;

/// From one look to the next while the edge is gone, or has no events.
const AGAIN: Duration = Duration::from_secs(1);
/// For a connection and the answer's head.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// An edge that lives tells something each second.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What is new.
#[derive(Debug)]
pub(super) enum News {
    Told(Told),
    /// The edge does not tell any more; why.
    Gone(String),
}

/// Sends what is new until nobody wants to know.
pub(super) async fn follow(admin: SocketAddr, news: Sender<News>) {
    loop {
        let Err(why) = once(admin, &news).await else { return };
        if news.send(News::Gone(why.to_string())).await.is_err() {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// Follows it until it goes, which is the error, or until nobody wants to know.
async fn once(admin: SocketAddr, news: &Sender<News>) -> anyhow::Result<()> {
    let mut client = Client::new(&format!("http://{admin}")).map_err(|error| anyhow!(error))?;
    let request = Request::get("/events").body(Bytes::new())?;
    let response = match timeout(ASK_TIMEOUT, client.send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(ClientError::Connect(error))) => bail!("no edge at {admin}: {error}"),
        Ok(Err(error)) => bail!("{admin} does not answer: {error}"),
        Err(_) => bail!("{admin} does not answer within {ASK_TIMEOUT:?}"),
    };
    match response.status() {
        StatusCode::OK => {}
        // An edge before there were events.
        StatusCode::NOT_FOUND => return poll(admin, news).await,
        StatusCode::SERVICE_UNAVAILABLE => bail!("as many watch the edge at {admin} as may"),
        status => bail!("{admin}/events answered {status}; is it the admin listener?"),
    }
    let (mut body, mut framer) = (response.into_body(), Framer::new());
    loop {
        let frame = match timeout(SILENCE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_)) | None) => bail!("the edge at {admin} has gone"),
            Err(_) => bail!("the edge at {admin} has said nothing for {SILENCE_MAX:?}"),
        };
        let Ok(chunk) = frame.into_data() else { continue };
        let mut events = Vec::new();
        framer.push(chunk, |event| events.push(told(event)))?;
        for event in events {
            let Some(told) = event? else { continue };
            if news.send(News::Told(told)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Asks for the status each second.
async fn poll(admin: SocketAddr, news: &Sender<News>) -> anyhow::Result<()> {
    loop {
        let status = Status::read(page::get(admin, "/status").await?.as_bytes())?;
        if news.send(News::Told(Told::Status(Box::new(status)))).await.is_err() {
            return Ok(());
        }
        sleep(AGAIN).await;
    }
}
