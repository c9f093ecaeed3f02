//! The sockets at which agents' connections come in: new ones, or those of a running process.
//!
//! For the hot upgrade the framework keeps a table of descriptors by address. It sends them to a new process when this one
//! is told to hand over, and has those here that this process got in the same way.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pingora::server::ListenFds;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;

/// Connections that the kernel holds for us; it allows no more than `net.core.somaxconn`.
const BACKLOG: u32 = 65_535;

/// How often an address that is in use is tried: who had it may be about to end.
const TRIES: u32 = 30;
const TRY_EVERY: Duration = Duration::from_secs(1);

/// The listener at this address: the running process's, if it gave one, or a new one. It is noted in the table, for a
/// process that comes after this one. What fails leaves the table as it was, and may be tried again.
pub(super) async fn listen(address: SocketAddr, table: Option<&ListenFds>) -> io::Result<TcpListener> {
    let Some(table) = table else { return bind(address).await };
    let key = address.to_string();
    let given = table.lock().get(&key).copied();
    if let Some(given) = given {
        return take_over(key, given, table);
    }
    let listener = bind(address).await?;
    table.lock().add(key, listener.as_raw_fd());
    Ok(listener)
}

/// Whether an error is for want of something that is free again when connections have closed.
pub(super) fn is_of_want(error: &io::Error) -> bool {
    const WANT: [Errno; 5] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|number| WANT.contains(&Errno::from_raw(number)))
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    for _ in 1..TRIES {
        match try_bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                log::warn!("{address} is in use; it is tried again");
                sleep(TRY_EVERY).await;
            }
            tried => return tried,
        }
    }
    try_bind(address)
}

fn try_bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes a listener over from the table, which holds a bare number. That number is closed last, when nothing can fail any
/// more: it may be all that keeps the socket, and who waits at it. And it is replaced in the same breath, so that a
/// successor is never sent a number that is none.
fn take_over(key: String, given: RawFd, table: &ListenFds) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(another(given)?);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut table = table.lock();
    table.add(key, listener.as_raw_fd());
    if let Err(error) = nix::unistd::close(given) {
        log::warn!("a listener of the predecessor stays open: {error}");
    }
    Ok(listener)
}

/// Another descriptor of a socket, to be owned: it closes when it is dropped. A number cannot be made an owner in place
/// without unsafe code. So it is sent through a pair of sockets (unix(7), `SCM_RIGHTS`), as it would be to another process:
/// what comes out at the other end has an owner.
fn another(socket: RawFd) -> io::Result<OwnedFd> {
    let (to, from) = UnixDatagram::pair()?;
    let rights = [socket];
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut received = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&from, &mut [IoSliceMut::new(&mut byte)], &mut received, RecvFlags::CMSG_CLOEXEC)?;
    let owned = received.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut owned) => owned.next(),
        _ => None,
    });
    // Without room for another descriptor the kernel leaves it out, and says no error.
    owned.ok_or_else(|| Errno::EMFILE.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::server::Fds;
    use std::net::TcpStream;
    use std::os::fd::IntoRawFd;

    fn here() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[tokio::test]
    async fn a_new_listener_is_noted_for_whoever_comes_after() {
        let table = ListenFds::new(Fds::new().into());
        let listener = listen(here(), Some(&table)).await.unwrap();
        assert_eq!(table.lock().get("127.0.0.1:0").copied(), Some(listener.as_raw_fd()));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(listener.accept().await.unwrap().1, client.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_listener_that_was_given_is_the_same_socket_and_closes_when_it_is_dropped() {
        let given = std::net::TcpListener::bind(here()).unwrap();
        let at = given.local_addr().unwrap();
        // It waits there already when the listener changes hands.
        let client = TcpStream::connect(at).unwrap();
        let table = ListenFds::new(Fds::new().into());
        table.lock().add(at.to_string(), given.into_raw_fd());
        let listener = listen(at, Some(&table)).await.unwrap();
        assert_eq!(table.lock().get(&at.to_string()).copied(), Some(listener.as_raw_fd()));
        assert_eq!(listener.accept().await.unwrap().1, client.local_addr().unwrap());
        drop(listener);
        assert!(TcpStream::connect(at).is_err(), "no descriptor of it is left open");
    }

    #[tokio::test]
    async fn what_cannot_be_taken_over_is_an_error_and_changes_nothing() {
        let table = ListenFds::new(Fds::new().into());
        table.lock().add("127.0.0.1:0".into(), RawFd::MAX);
        let error = listen(here(), Some(&table)).await.unwrap_err();
        assert_eq!((error.raw_os_error(), is_of_want(&error)), (Some(Errno::EBADF as i32), false));
        assert_eq!(table.lock().get("127.0.0.1:0").copied(), Some(RawFd::MAX));
    }

    #[test]
    fn only_want_is_waited_out() {
        for (errno, want) in [
            (Errno::EMFILE, true),
            (Errno::ENFILE, true),
            (Errno::ENOBUFS, true),
            (Errno::ENOMEM, true),
            (Errno::ETOOMANYREFS, true),
            (Errno::EBADF, false),
            (Errno::EADDRINUSE, false),
            (Errno::EACCES, false),
            (Errno::EADDRNOTAVAIL, false),
        ] {
            assert_eq!(is_of_want(&errno.into()), want, "{errno}");
        }
    }
}
