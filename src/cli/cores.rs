//! The agents' connections, each served by one thread to its end: one for each core.
//!
//! With one pool of threads whoever has nothing to do takes the others' tasks, and for a stream whose every event is a few
//! microseconds' work, waking and handing over costs a quarter of that again. So each thread has a runtime of its own,
//! accepts for itself and keeps what it accepts. All accept from the same sockets, so that the one with the least to do
//! comes first. What it costs: while a thread is busy with one request, the others that it has taken wait; that is well
//! below a millisecond, since nothing here computes for long.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use async_trait::async_trait;
use nearpool::proxy::Accept;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use pingora::server::{Fds, ListenFds, ShutdownWatch};
use pingora::services::Service as ServiceTrait;
use pingora::services::listening::Service;
use tokio::time::{sleep, timeout};

/// How long the first thread may take to bind its listeners; it takes a millisecond.
const BIND_TIMEOUT: Duration = Duration::from_secs(10);
const BIND_POLL: Duration = Duration::from_millis(2);

/// One thread that serves agents.
pub(super) struct Core {
    index: usize,
    service: Service<Accept>,
}

impl Core {
    /// The first one binds the listeners or takes them over from a running process; the others have copies of them.
    pub(super) fn new(index: usize, mut service: Service<Accept>) -> Core {
        service.threads = Some(1);
        Core { index, service }
    }
}

#[async_trait]
impl ServiceTrait for Core {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        let fds = match fds {
            Some(bound) if self.index > 0 => match copies(&bound, &self.service.endpoints().addresses()).await {
                Ok(copies) => Some(copies),
                Err(error) => {
                    log::error!("thread {} does not serve: {error:#}", self.index);
                    return;
                }
            },
            bound => bound,
        };
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        ServiceTrait::threads(&self.service)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        ServiceTrait::listen_addresses(&self.service)
    }
}

/// A table of descriptors of the same sockets, as soon as they are bound. A table of its own, since whoever takes a
/// descriptor from one closes it in the end.
async fn copies(bound: &ListenFds, addresses: &[String]) -> anyhow::Result<ListenFds> {
    let all = async {
        loop {
            let found: Option<Vec<RawFd>> = {
                let bound = bound.lock();
                addresses.iter().map(|address| bound.get(address).copied()).collect()
            };
            match found {
                Some(found) => return found,
                None => sleep(BIND_POLL).await,
            }
        }
    };
    let sockets = timeout(BIND_TIMEOUT, all).await.context("the listeners are not bound")?;
    let mut copies = Fds::new();
    for (address, socket) in addresses.iter().zip(sockets) {
        copies.add(address.clone(), copy(socket).with_context(|| format!("cannot share the listener at {address}"))?);
    }
    Ok(ListenFds::new(copies.into()))
}

/// Another descriptor of the same socket. It is sent through a pair of sockets (unix(7), `SCM_RIGHTS`), as it would be to
/// another process: to copy it in place, one must own it, and its owner is the framework.
fn copy(socket: RawFd) -> anyhow::Result<RawFd> {
    let (to, from) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
    let rights = [socket];
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let received = recvmsg::<()>(from.as_raw_fd(), &mut bytes, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut copies = received.cmsgs()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(copies) => Some(copies),
        _ => None,
    });
    let copies = copies.next().ok_or_else(|| anyhow!("no descriptor came back"))?;
    ensure!(copies.len() == 1, "{} descriptors came back", copies.len());
    Ok(copies[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_copy_is_the_same_socket_and_another_descriptor() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let bound = ListenFds::new(Fds::new().into());
        let waiting = tokio::spawn({
            let bound = bound.clone();
            async move { copies(&bound, &["here".into()]).await }
        });
        bound.lock().add("here".into(), listener.as_raw_fd());
        let copies = waiting.await.unwrap().unwrap();
        let copied = *copies.lock().get("here").unwrap();
        assert_ne!(copied, listener.as_raw_fd());
        drop(listener);
        assert!(TcpStream::connect(at).is_ok(), "the copy keeps the socket open");
        nix::unistd::close(copied).unwrap();
        assert!(TcpStream::connect(at).is_err());
    }
}
