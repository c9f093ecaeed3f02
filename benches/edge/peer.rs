//! What the edge is measured beside: a Pingora proxy that decides nothing.

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::server::Server;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Noop {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Noop {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// Serves until the process is ended.
pub(crate) fn serve(listen: &str, upstream: SocketAddr, threads: usize) -> ! {
    let mut server = Server::new_with_opt_and_conf(Opt::default(), ServerConf { threads, ..ServerConf::default() });
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Noop { upstream });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
