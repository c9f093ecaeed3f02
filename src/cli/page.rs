//! Pages of a running edge's admin listener, asked as any monitoring would.

use std::net::{SocketAddr, ToSocketAddrs};
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

/// Reads an admin listener's address as people write it, as a URL too.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let found = address.to_socket_addrs().map_err(|error| error.to_string());
    found
        .and_then(|mut all| all.next().ok_or_else(|| "it has no address".to_owned()))
        .map_err(|error| format!("{error}; an address is, for example, 127.0.0.1:9901 (edge.admin in the config)"))
}

/// Gets a page of the admin listener; anything but 200 is an error.
pub(super) async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
    let ask = async {
        let mut client = Client::new(&format!("http://{admin}")).map_err(|error| anyhow!(error))?;
        // The error tells its cause itself.
        let response = client.send(Request::get(path).body(Bytes::new())?).await.map_err(|error| anyhow!("{error}"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_read_as_people_write_it() {
        let expected = Ok(SocketAddr::from(([127, 0, 0, 1], 9901)));
        for text in ["127.0.0.1:9901", "http://127.0.0.1:9901", "http://127.0.0.1:9901/"] {
            assert_eq!(address(text), expected, "{text}");
        }
        for text in ["127.0.0.1", "", "http://", "127.0.0.1:99999"] {
            assert!(address(text).unwrap_err().contains("127.0.0.1:9901"), "{text}");
        }
    }
}
