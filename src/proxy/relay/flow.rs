//! What a replica sends, on its way down: read, taken in, sent.
//!
//! It is all done in one poll without a future of its own for each step: what those keep between two events lies each
//! elsewhere, and at an edge with many streams every such place is memory that is in no cache when an event comes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pingora::protocols::http::ServerSession;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

use super::send_ready;
use crate::domain::outcome::Outcome;
use crate::proxy::account::{Account, GoingDown};
use crate::proxy::apart::apart;
use crate::proxy::attempt::UnderWay;
use crate::proxy::bell::Bell;
use crate::proxy::chunks::Chunks;
use crate::proxy::client::poll_gone;
use crate::proxy::ending::Ending;
use crate::proxy::events::Events;
use crate::proxy::upstream::{Direct, own};

/// What goes down in one write at most, but for the last piece that is read; mostly it is one event.
const BYTES_TOGETHER_MAX: usize = 64 * 1024;

/// After so many bytes the other streams of the thread have their turn, though the replica has more: far more than any
/// engine sends at once.
const BYTES_IN_TURN_MAX: usize = 256 * 1024;

/// How long things may take.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// A replica's silence, or a client's over a write.
    pub(super) idle: Duration,
    /// When the whole request is out of time.
    pub(super) total: Instant,
}

impl Bounds {
    /// When what begins or goes on now is given up.
    pub(super) fn due(&self, now: Instant) -> Instant {
        (now + self.idle).min(self.total)
    }
}

/// An answer on its way down. What each event asks for is taken here from where it lies, and given back at the end: at an
/// edge with many streams each place of memory is in no cache when an event comes, so that it stands together, and in this
/// order.
#[repr(C)]
pub(super) struct Flow<'a, 'b> {
    direct: Option<Direct>,
    /// When the replica was last heard of.
    heard: Instant,
    under: &'a mut UnderWay,
    /// Whether the client's connection is HTTP/2.
    http2: bool,
    /// Whether the replica has nothing more now, and will wake the task.
    asked: bool,
    /// Why nothing more is taken from the replica.
    broke: Option<Outcome>,
    /// Bytes that were read and are to be sent together.
    together: usize,
    /// Bytes that were sent since another stream had its turn.
    in_turn: usize,
    bell: Bell,
    chunks: Option<Chunks>,
    going_down: GoingDown,
    bounds: Bounds,
    watch: Watch<'a>,
    session: &'a mut ServerSession,
    account: &'a mut Account<'b>,
}

/// What a flow cannot do by itself.
enum Step {
    /// What is ready is to be sent, and that has to wait.
    Send,
    /// The other streams of the thread have their turn.
    GiveWay,
    /// It has ended.
    Over(Result<(), Outcome>),
}

impl<'a, 'b> Flow<'a, 'b> {
    /// Until `ending`, which is when the edge ends.
    pub(super) fn new(
        session: &'a mut ServerSession,
        under: &'a mut UnderWay,
        account: &'a mut Account<'b>,
        bounds: Bounds,
        ending: &'a Ending,
    ) -> Box<Flow<'a, 'b>> {
        // Each piece has its own bound here: the framework's would be set up anew for each.
        session.set_write_timeout(None);
        let heard = Instant::now();
        Box::new(Flow {
            direct: under.exchange.direct.take(),
            heard,
            under,
            http2: session.is_http2(),
            asked: false,
            broke: None,
            together: 0,
            in_turn: 0,
            bell: Bell::default(),
            chunks: Chunks::of(session),
            going_down: std::mem::take(&mut account.going_down),
            bounds,
            watch: Watch { idle_timer: Box::pin(sleep_until(bounds.due(heard))), ending: Box::pin(ending.reached()) },
            session,
            account,
        })
    }

    /// Sends all that the replica says.
    pub(super) async fn run(&mut self) -> Result<(), Outcome> {
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Step::Over(result) => return result,
                // Were it woken at once, it would have its next turns before anybody looks whether something came for others.
                Step::GiveWay => yield_now().await,
                Step::Send => apart(|| self.send()).await?,
            }
        }
    }

    /// Sends what is ready, however long that takes.
    async fn send(&mut self) -> Result<(), Outcome> {
        let Flow { session, under, chunks, bounds, direct, .. } = self;
        if direct.is_some() {
            under.ready.iter_mut().for_each(own);
        }
        // If the write had to wait, the replica may have woken the task meanwhile.
        self.asked &= send_ready(session, chunks.as_mut(), &mut under.ready, bounds).await?;
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            self.poll_read(cx);
            self.in_turn += std::mem::take(&mut self.together);
            self.going_down.sent(self.under.ready.iter().map(Bytes::len).sum());
            match self.send_now(cx) {
                Some(Ok(())) => {}
                Some(Err(outcome)) => return Poll::Ready(Step::Over(Err(outcome))),
                None => return Poll::Ready(Step::Send),
            }
            if let Some(result) = self.ended() {
                return Poll::Ready(Step::Over(result));
            }
            if std::mem::take(&mut self.asked) {
                self.in_turn = 0;
                return self.poll_watch(cx).map(|outcome| Step::Over(Err(outcome)));
            }
            // A replica that is always ahead leaves the timer no turn.
            if self.heard >= self.bounds.total {
                return Poll::Ready(Step::Over(Err(Outcome::TotalTimeout)));
            }
            if self.in_turn >= BYTES_IN_TURN_MAX {
                self.in_turn = 0;
                return Poll::Ready(Step::GiveWay);
            }
        }
    }

    /// Looks whether anything else ends the stream, where it may have come to that.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Flow { bell, http2, watch, session, chunks, heard, bounds, .. } = self;
        let rung = bell.rung(cx.waker());
        // A write to an HTTP/2 stream takes the place of the waker that its end would call.
        let Some(waker) = (if *http2 { Some(cx.waker()) } else { rung }) else { return Poll::Pending };
        let mut look = || watch.poll(&mut Context::from_waker(waker), session, *heard, *bounds);
        match chunks {
            Some(chunks) => chunks.lend(look),
            None => look(),
        }
    }

    /// Takes in what has come meanwhile, which goes down in one write: the busier the machine, the fewer there are.
    fn poll_read(&mut self, cx: &mut Context<'_>) {
        while !self.asked && !self.under.ended && self.broke.is_none() && self.together < BYTES_TOGETHER_MAX {
            let chunk = match &mut self.direct {
                Some(direct) => direct.poll_next(cx),
                None => self.under.exchange.poll_read(cx),
            };
            let Poll::Ready(chunk) = chunk else {
                self.asked = true;
                return;
            };
            if self.together == 0 {
                self.heard = Instant::now();
            }
            if let Ok(Some(chunk)) = &chunk {
                self.together += chunk.len();
            }
            self.broke = take(self.under, chunk, self.heard, &mut self.going_down).err();
        }
    }

    /// Sends what is ready; `None` if that has to wait.
    fn send_now(&mut self, cx: &mut Context<'_>) -> Option<Result<(), Outcome>> {
        let Flow { under, chunks, .. } = self;
        if under.ready.is_empty() {
            return Some(Ok(()));
        }
        let Poll::Ready(sent) = chunks.as_mut()?.poll_send(cx, &under.ready) else { return None };
        under.ready.clear();
        Some(sent.map_err(|_| Outcome::ClientGone))
    }

    /// How it ended, once everything is sent.
    fn ended(&self) -> Option<Result<(), Outcome>> {
        match self.broke {
            Some(outcome) => Some(Err(outcome)),
            None => self.under.ended.then(|| whole_by_its_word(self.under.events.as_deref())),
        }
    }
}

impl Drop for Flow<'_, '_> {
    fn drop(&mut self) {
        self.session.set_write_timeout(Some(self.bounds.idle));
        self.under.exchange.direct = self.direct.take();
        self.account.going_down = std::mem::take(&mut self.going_down);
    }
}

/// What ends a stream from elsewhere than its replica. It happens seldom, and so is asked only when it may have.
struct Watch<'a> {
    /// One timer for the whole stream, looked at when it fires: to set one for each event costs more than all else that is
    /// done for it here.
    idle_timer: Pin<Box<Sleep>>,
    ending: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

impl Watch<'_> {
    /// `heard`: when the replica was last heard of.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut ServerSession,
        heard: Instant,
        bounds: Bounds,
    ) -> Poll<Outcome> {
        if poll_gone(session, cx).is_ready() {
            return Poll::Ready(Outcome::ClientGone);
        }
        if self.ending.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Outcome::Drained);
        }
        while self.idle_timer.as_mut().poll(cx).is_ready() {
            match Instant::now() {
                now if now >= bounds.total => return Poll::Ready(Outcome::TotalTimeout),
                now if now >= heard + bounds.idle => return Poll::Ready(Outcome::IdleTimeout),
                _ => self.idle_timer.as_mut().reset(bounds.due(heard)),
            }
        }
        Poll::Pending
    }
}

/// Takes in what the replica sent, so that what is whole of it is ready.
fn take(
    under: &mut UnderWay,
    chunk: io::Result<Option<Bytes>>,
    now: Instant,
    going_down: &mut GoingDown,
) -> Result<(), Outcome> {
    match chunk {
        Ok(Some(chunk)) => {
            let Some(events) = &mut under.events else {
                going_down.event(now.into_std());
                under.ready.push(chunk);
                return Ok(());
            };
            let before = events.count();
            let pushed = events.push(chunk, &mut under.ready);
            // Those that came together are counted one by one.
            for _ in before..events.count() {
                going_down.event(now.into_std());
            }
            pushed?;
        }
        Ok(None) => {
            under.ended = true;
            if let Some(events) = &mut under.events {
                events.finish(&mut under.ready);
            }
        }
        // The engine had said that this was all: what broke was no part of the answer.
        Err(_) if under.events.as_ref().is_some_and(|events| events.ended()) => under.ended = true,
        Err(_) => return Err(Outcome::Cut),
    }
    Ok(())
}

/// A stream is whole only if its last event says so: a close-delimited body ends the same way when its replica dies.
fn whole_by_its_word(events: Option<&Events>) -> Result<(), Outcome> {
    match events {
        Some(events) if !events.ended() => Err(Outcome::Cut),
        _ => Ok(()),
    }
}
