//! How a channel whose records must be answered is made: both ends, over any transport.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use recordfd_uapi::{ChannelInfo, Event, Format, Transport};

use super::MustAnswer;
use super::desk::Way;
use super::ends::Responder;
#[cfg(feature = "local")]
use super::local::Exchange;
use crate::channel::UnattachedEnd;
use crate::error::Error;
use crate::transport::{Remote, shared, socket};

/// What a channel is to be; its bounds are checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) format: Format,
    /// Records have the header that can say CANCELLED.
    pub(crate) headed: bool,
    pub(crate) depth: u32,
    /// How long the ends look by themselves before they sleep.
    pub(crate) busy_poll: Duration,
}

/// An end for this process: the reporter's, or the responder's with the depth.
type Kept<T> = Result<(T, UnattachedEnd), Error>;

impl Plan {
    /// Both ends, for threads of this process.
    #[cfg(feature = "local")]
    pub(crate) fn local<A: MustAnswer>(&self) -> Result<(Way<A>, Responder<A>), Error> {
        let (reporter, reader) = Exchange::pair(self.depth, self.headed)?;
        Ok((Way::local(reporter, self.depth, self.busy_poll), Responder::Local(reader)))
    }

    /// The reporter's end, and that of a responder to give away.
    pub(crate) fn socket<A: MustAnswer>(&self) -> Kept<Way<A>> {
        let (near, far, depth) = self.sockets::<A>()?;
        Ok((self.way(&Remote::Socket(Arc::new(near)), depth), self.end(far, Transport::SOCKET, depth)))
    }

    /// The responder's end with the depth, and that of a reporter to give away.
    pub(crate) fn socket_responder<A: MustAnswer>(&self) -> Kept<(Responder<A>, u32)> {
        let (far, near, depth) = self.sockets::<A>()?;
        let responder = self.responder(&Remote::Socket(Arc::new(near)), depth);
        Ok((responder, self.end(far, Transport::SOCKET, depth)))
    }

    /// As [`socket`](Self::socket), in shared memory.
    pub(crate) fn shared<A: MustAnswer>(&self) -> Kept<Way<A>> {
        let (port, far, depth) = self.rings(true)?;
        Ok((self.way(&Remote::Shared(port), depth), self.end(far, Transport::SHARED, depth)))
    }

    /// As [`socket_responder`](Self::socket_responder), in shared memory.
    pub(crate) fn shared_responder<A: MustAnswer>(&self) -> Kept<(Responder<A>, u32)> {
        let (port, far, depth) = self.rings(false)?;
        Ok((self.responder(&Remote::Shared(port), depth), self.end(far, Transport::SHARED, depth)))
    }

    fn way<A: MustAnswer>(&self, remote: &Remote, depth: u32) -> Way<A> {
        Way::remote(remote, depth, self.headed, self.busy_poll)
    }

    fn responder<A: MustAnswer>(&self, remote: &Remote, depth: u32) -> (Responder<A>, u32) {
        (Responder::remote(remote, depth, self.headed), depth)
    }

    fn end(&self, far: OwnedFd, transport: Transport, depth: u32) -> UnattachedEnd {
        UnattachedEnd::from_parts(far, ChannelInfo::new(self.format, transport, depth))
    }

    /// The reporter's socket, the responder's, and how many groups there is room for.
    fn sockets<A: MustAnswer>(&self) -> Result<(OwnedFd, OwnedFd, u32), Error> {
        let (reporter, responder) = socket::pair(None)?;
        let records = if self.headed {
            socket::set_depth::<Event<A>>(&reporter, self.depth)?
        } else {
            socket::set_depth::<A>(&reporter, self.depth)?
        };
        // An answer to every group has room, so that answering never waits for the reporter.
        let answers = socket::set_depth::<A::Answer>(&responder, records)?;
        Ok((reporter, responder, answers))
    }

    fn rings(&self, reports: bool) -> Result<shared::Made, Error> {
        // An answer to every group has room, as above.
        shared::make(self.format, reports, self.depth, self.depth)
    }
}
