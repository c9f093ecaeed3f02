//! llama.cpp's server as child processes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::support::{Http1, Python, own_address, request, soon};

static LLAMA: Python = Python::new("engine", "the tests with llama.cpp's server");

/// A running engine. It is killed when dropped, and ends with this process in any case.
pub(crate) struct Engine {
    child: Child,
    address: SocketAddr,
}

impl Engine {
    /// Two of them that answer and have seen nothing yet. `None` where there is no Python environment.
    pub(crate) async fn two() -> Option<[Engine; 2]> {
        Some([Engine::start().await?, Engine::start().await?])
    }

    async fn start() -> Option<Engine> {
        let python = LLAMA.interpreter()?;
        let mut child = Command::new(python)
            .arg(LLAMA.folder().join("serve.py"))
            .args([model(python), Path::new(&own_address().to_string())])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let first_line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).map(|_| line).unwrap()
        });
        let line = soon(first_line).await.unwrap();
        let address = line.trim_end().strip_prefix("listening http://").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("llama.cpp's server does not start: {line:?}"));
        Some(Engine { child, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Prompt tokens that it had to compute so far, by its own account.
    pub(crate) async fn prefilled(&self) -> u64 {
        let mut client = Http1::connect(self.address).await;
        let answer = client.call(&request("GET", "/metrics", &[], b"")).await;
        let page = String::from_utf8_lossy(&answer.body);
        let value = page.lines().find_map(|line| line.strip_prefix("llamacpp:prompt_tokens_total ")?.parse().ok());
        value.unwrap_or_else(|| panic!("no such metric:\n{page}"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The model's file, written once by each process of tests: that takes half a second.
fn model(python: &Path) -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-model.gguf");
        let output = Command::new(python).arg(LLAMA.folder().join("model.py")).arg(&file).output().unwrap();
        assert!(output.status.success(), "no model: {}", String::from_utf8_lossy(&output.stderr));
        file
    })
}
