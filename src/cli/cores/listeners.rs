//! The sockets at which agents' connections come in: new ones, or those of a running process.
//!
//! For the hot upgrade the framework keeps a table of descriptors by address. It sends them to a new process when this one
//! is told to hand over, and has those here that this process got in the same way.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pingora::server::ListenFds;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::net::{TcpListener, TcpSocket};

/// What there is to do when nothing is left to accept with.
pub(super) const ALLOW_MORE: &str = "allow more open files (LimitNOFILE, ulimit -n) or set a lower limits.connections";

/// Connections that the kernel holds for us; it allows no more than `net.core.somaxconn`.
const BACKLOG: u32 = 65_535;

/// The listener at this address: the running process's, if it gave one, or a new one. It is noted in the table, for a
/// process that comes after this one. What fails leaves the table as it was, and may be tried again.
pub(super) fn listen(address: SocketAddr, table: Option<&ListenFds>) -> io::Result<TcpListener> {
    let Some(table) = table else { return bound(address)?.listen(BACKLOG) };
    let key = address.to_string();
    let given = table.lock().get(&key).copied();
    if let Some(given) = given {
        return take_over(key, given, table);
    }
    let listener = bound(address)?.listen(BACKLOG)?;
    table.lock().add(key, listener.as_raw_fd());
    Ok(listener)
}

/// Whether an error may pass: it is for want of something that is free again when connections have closed, or another process
/// has the address, which may be about to end.
pub(super) fn may_pass(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse || is_of_want(error)
}

/// What there is to do about an address that is not to be had.
pub(in super::super) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there (`ss -ltnp` names it): end it, choose another port, or, if it is an edge, replace it \
             without a break with --upgrade. An edge that was told to end drains first"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root: choose a higher one, or allow it with the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; 0.0.0.0 and [::] are all that it has",
        _ if is_of_want(error) => ALLOW_MORE,
        _ => "see to it, and start again",
    }
}

fn is_of_want(error: &io::Error) -> bool {
    const WANT: [Errno; 5] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|number| WANT.contains(&Errno::from_raw(number)))
}

/// A socket that has this address and does not listen: whoever connected to a listener that closes at once would be reset.
pub(in super::super) fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
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
        let listener = listen(here(), Some(&table)).unwrap();
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
        let listener = listen(at, Some(&table)).unwrap();
        assert_eq!(table.lock().get(&at.to_string()).copied(), Some(listener.as_raw_fd()));
        assert_eq!(listener.accept().await.unwrap().1, client.local_addr().unwrap());
        drop(listener);
        assert!(TcpStream::connect(at).is_err(), "no descriptor of it is left open");
    }

    #[test]
    fn what_cannot_be_taken_over_is_an_error_and_changes_nothing() {
        let table = ListenFds::new(Fds::new().into());
        table.lock().add("127.0.0.1:0".into(), RawFd::MAX);
        let error = listen(here(), Some(&table)).unwrap_err();
        assert_eq!((error.raw_os_error(), may_pass(&error)), (Some(Errno::EBADF as i32), false));
        assert_eq!(table.lock().get("127.0.0.1:0").copied(), Some(RawFd::MAX));
    }

    #[test]
    fn what_may_pass_is_waited_out_and_each_is_told_with_what_there_is_to_do() {
        for (errno, passes, told) in [
            (Errno::EMFILE, true, ALLOW_MORE),
            (Errno::ENFILE, true, ALLOW_MORE),
            (Errno::ENOBUFS, true, ALLOW_MORE),
            (Errno::ENOMEM, true, ALLOW_MORE),
            (Errno::ETOOMANYREFS, true, ALLOW_MORE),
            (Errno::EADDRINUSE, true, "ss -ltnp"),
            (Errno::EACCES, false, "CAP_NET_BIND_SERVICE"),
            (Errno::EADDRNOTAVAIL, false, "no such address"),
            (Errno::EBADF, false, "start again"),
        ] {
            let error = errno.into();
            assert_eq!((may_pass(&error), remedy(&error).contains(told)), (passes, true), "{errno}");
        }
    }
}
