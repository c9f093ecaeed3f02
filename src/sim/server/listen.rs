//! The listener, its connections, and the ways to end a connection that HTTP has no word for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::http;
use super::replica::Replica;

/// Connections that one replica holds at once; one more is closed.
const CONNECTIONS_MAX: usize = 20_000;
/// Requests at once on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 1_024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// An open listener with its connections. Dropping it closes them all.
#[derive(Debug)]
pub(super) struct Listening {
    addr: SocketAddr,
    listener: Arc<TcpListener>,
    accepting: JoinHandle<()>,
    end: watch::Sender<Option<End>>,
    /// Yields `None` when the last connection is gone.
    alive: mpsc::Receiver<Infallible>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

impl Listening {
    pub(super) fn open(replica: &Arc<Replica>, addr: SocketAddr) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = Arc::new(socket.listen(BACKLOG)?);
        let addr = listener.local_addr()?;
        let (end, ends) = watch::channel(None);
        let (living, alive) = mpsc::channel(1);
        let accepting = tokio::spawn(accept(Arc::clone(replica), Arc::clone(&listener), ends, living));
        Ok(Self { addr, listener, accepting, end, alive })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the listener alone; new connections are refused when this returns.
    pub(super) async fn refuse(&mut self) {
        if !self.accepting.is_finished() {
            self.accepting.abort();
            // The only error is the cancellation just asked for.
            let _ = (&mut self.accepting).await;
        }
        self.stop_listening();
    }

    /// To close the socket would not do: where another thread starts a process, that has all descriptors too for a moment, so
    /// that connections would still be taken, and the address would be in use to whoever starts the replica again.
    fn stop_listening(&self) {
        // An error says that it does not listen.
        let _ = shutdown(&*self.listener, Shutdown::Read);
    }

    /// Closes the listener and every connection, with RST when told; all are gone when this returns.
    pub(super) async fn close(mut self, reset: bool) {
        // Awaited: whoever starts the replica again binds the same address.
        self.refuse().await;
        self.end.send_replace(Some(if reset { End::Reset } else { End::Close }));
        while self.alive.recv().await.is_some() {}
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
        self.stop_listening();
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(End::Reset);
            first
        });
    }
}

async fn accept(
    replica: Arc<Replica>,
    listener: Arc<TcpListener>,
    ends: watch::Receiver<Option<End>>,
    living: mpsc::Sender<Infallible>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if replica.stats.borrow().connections < CONNECTIONS_MAX => {
                let connection = serve(Arc::clone(&replica), stream, ends.clone(), living.clone());
                tokio::spawn(connection);
            }
            Ok(_) => {}
            // Out of descriptors, mostly: closing connections will help, asking again at once will not.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(
    replica: Arc<Replica>,
    stream: TcpStream,
    mut ends: watch::Receiver<Option<End>>,
    _living: mpsc::Sender<Infallible>,
) {
    let _counted = Counted::new(&replica);
    // Events must leave as they come; without it the worst is 40 ms of delay.
    let _ = stream.set_nodelay(true);
    let cut = Arc::new(Cut::default());
    let io = TokioIo::new(Socket { stream, cut: Arc::clone(&cut) });
    let service = service_fn({
        let (replica, cut) = (Arc::clone(&replica), Arc::clone(&cut));
        move |request| http::handle(Arc::clone(&replica), Arc::clone(&cut), request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(H2_STREAMS_MAX);
    let connection = builder.serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    // Biased, so that what was written before a cut is flushed before the cut.
    tokio::select! {
        biased;
        // How a client's connection fails is of no interest to a simulated engine.
        _ = connection.as_mut() => {}
        () = cut.ordered.notified() => {}
        end = ends.wait_for(Option::is_some) => {
            if !matches!(end.as_deref(), Ok(Some(End::Close))) {
                cut.reset.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Ends the connection of the request that holds it.
#[derive(Debug, Default)]
pub(super) struct Cut {
    ordered: Notify,
    reset: AtomicBool,
}

impl Cut {
    /// Closes the connection after what was written.
    pub(super) fn close(&self) {
        self.ordered.notify_one();
    }

    /// Resets the connection.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
        self.ordered.notify_one();
    }
}

/// A socket that is reset instead of closed when its cut says so.
struct Socket {
    stream: TcpStream,
    cut: Arc<Cut>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.cut.reset.load(Ordering::Relaxed) {
            // A socket that is closed already cannot be reset, and need not be.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Counts a connection while it is open.
struct Counted(Arc<Replica>);

impl Counted {
    fn new(replica: &Arc<Replica>) -> Self {
        replica.stats.send_modify(|stats| {
            stats.connections += 1;
            stats.connections_total += 1;
        });
        Self(Arc::clone(replica))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.stats.send_modify(|stats| stats.connections -= 1);
    }
}
