//! The admin listener, which goes on while the edge drains.
//!
//! The framework has every listener close when draining begins. But calls may take minutes to end then, and whoever looks
//! after the edge wants to see them end, and counted. So this one hears of the end only when the listeners are handed over,
//! since the successor has its address then; else it answers as long as the process lives. The process waits for nobody
//! who asks there.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use nearpool::control::admin::{Admin, Parts};
use nearpool::roster::Roster;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::{Service, listening};
use tokio::sync::watch;

/// The listener with its app.
pub(super) struct AdminListener {
    service: listening::Service<Admin>,
    roster: Arc<Roster>,
}

impl AdminListener {
    /// At this address.
    pub(super) fn new(address: SocketAddr, parts: Parts) -> AdminListener {
        let roster = Arc::clone(&parts.roster);
        let mut service = listening::Service::new("admin".into(), Admin::new(parts));
        service.add_tcp(&address.to_string());
        AdminListener { service, roster }
    }
}

#[async_trait]
impl Service for AdminListener {
    async fn start_service(&mut self, table: Option<ListenFds>, mut ending: ShutdownWatch, tasks: usize) {
        let (close, closing) = watch::channel(false);
        let roster = &self.roster;
        let let_go = async {
            if ending.wait_for(|ending| *ending).await.is_ok() && !roster.is_handing_over() {
                std::future::pending::<()>().await;
            }
            close.send_replace(true);
        };
        tokio::join!(self.service.start_service(table, closing, tasks), let_go);
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.listen_addresses()
    }
}
