//! A simulated replica as a process of its own, which can die as processes do.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use super::{SERVED, own_address, soon};

/// The process. It is killed when dropped.
pub struct SimProcess {
    child: Child,
    name: String,
    address: SocketAddr,
}

impl SimProcess {
    /// Starts a replica and waits until it listens.
    pub async fn start(name: &str) -> SimProcess {
        let address = SocketAddr::from((own_address(), 8000));
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearpool"));
        command.args(["simulate", "--model", SERVED, "--speed", "1000", "--name", name, "--listen"]);
        command.arg(address.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        soon(listens).await;
        SimProcess { child, name: name.into(), address }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for SimProcess {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
