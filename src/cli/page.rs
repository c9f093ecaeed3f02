//! Pages of a running edge's admin listener, asked as any monitoring would.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Limited};
use nearpool::sim::client::Client;
use tokio::time::timeout;

/// An edge of some dozen replicas shows some hundred KiB.
const BODY_BYTES_MAX: usize = 16 << 20;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Gets a page of the admin listener; anything but 200 is an error.
pub(super) async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
    let ask = async {
        let mut client = Client::new(&format!("http://{admin}")).map_err(|error| anyhow!(error))?;
        let response = client.send(Request::get(path).body(Bytes::new())?).await?;
        let status = response.status();
        ensure!(status.is_success(), "{path} answered {status}");
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!("{path}: {error}"))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    timeout(ASK_TIMEOUT, ask).await.with_context(|| format!("{path} took more than {ASK_TIMEOUT:?}"))?
}

/// The value of a series' only label, `start` being everything before it.
pub(super) fn label<'a>(series: &'a str, start: &str) -> Option<&'a str> {
    series.strip_prefix(start)?.strip_suffix("\"}")
}

/// Every series of a page of metrics with its value.
pub(super) fn series(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series, value.parse().ok()?))
    })
}
