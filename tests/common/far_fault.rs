//! Responders in this process or in another one, by the same calls; see `far.rs`.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use recordfd::fault::{self, FaultGroup, FaultReporter, FaultResponder, Options, RespondError, ResponseCode};
use recordfd::uapi::{Format, PageResponse, PgFault};
use recordfd::{TryRecvError, UnattachedEnd, fd};

use super::far::{Far, Pollable, option};
use super::fault::Responds;
use super::line::{Line, Wire};

/// Makes a channel whose responder is here or there.
pub type MakeAnyFault = fn(&Options) -> (FaultReporter, AnyResponder);

/// Both ends in this process.
pub fn here((reporter, responder): (FaultReporter, FaultResponder)) -> (FaultReporter, AnyResponder) {
    (reporter, AnyResponder::Here(responder))
}

/// Every way to make one.
pub const EVERY_MAKE_ANY: &[MakeAnyFault] = &[
    #[cfg(feature = "local")]
    |options| here(super::fault::local(options)),
    |options| here(super::fault::socket(options)),
    |options| here(super::fault::socket_made_by_responder(options)),
    |options| here(super::fault::shared(options)),
    |options| here(super::fault::shared_made_by_responder(options)),
    shared_to_far_responder,
    shared_made_by_far_responder,
];

/// In shared memory, to a responder in another process; the reporter's side makes the channel.
pub fn shared_to_far_responder(options: &Options) -> (FaultReporter, AnyResponder) {
    let far = FarResponder::start("respond", ());
    let (reporter, end) = fault::shared(options).unwrap();
    end.send_over(&far.0.far.line.0).unwrap();
    (reporter, AnyResponder::There(far))
}

/// The same; the responder's side makes the channel.
pub fn shared_made_by_far_responder(options: &Options) -> (FaultReporter, AnyResponder) {
    let is_headed = format!("{options:?}").contains(&Format::IOMMU_PGFAULT_V2.to_string());
    let far = FarResponder::start("make_responder", (option(options, "depth"), is_headed));
    let end = UnattachedEnd::recv_from(&far.0.far.line.0).unwrap();
    (FaultReporter::from_shared(end.into(), options).unwrap(), AnyResponder::There(far))
}

/// A responder in another process. That lives as long as any of its groups.
pub struct FarResponder(Arc<Process>);

struct Process {
    /// Calls of groups, which may come while the responder waits. In front of `far`, whose drop waits for the end.
    groups: Mutex<Line>,
    far: Far,
}

impl FarResponder {
    fn start(role: &str, what: impl Wire) -> Self {
        let far = Far::start(role, what);
        let (near, there) = UnixStream::pair().unwrap();
        fd::send_descriptor(&far.line.0, b"g", there.as_fd()).unwrap();
        Self(Arc::new(Process { groups: Mutex::new(Line(near)), far }))
    }

    fn call<T: Wire>(&self, name: &str, arguments: impl Wire) -> T {
        self.0.far.line.call(name, arguments)
    }

    /// Receives groups by one of the calls that do.
    fn receive(
        &self,
        name: &str,
        arguments: impl Wire,
        pages: &mut [PgFault],
    ) -> Result<Vec<AnyGroup>, TryRecvError> {
        type Received = (Vec<(usize, (u32, (usize, usize)))>, Vec<PgFault>);
        let (groups, received): Received =
            self.call::<Result<_, TryRecvError>>(name, (pages.len(), arguments))?;
        pages[..received.len()].copy_from_slice(&received);
        let group = |(id, (cookie, (begin, end)))| {
            AnyGroup::There(FarGroup { process: Some(self.0.clone()), id, cookie, range: begin..end })
        };
        Ok(groups.into_iter().map(group).collect())
    }
}

impl Drop for FarResponder {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.call("drop", ())
        }
    }
}

/// A group that a responder in another process has received.
pub struct FarGroup {
    /// Until it is answered or given up.
    process: Option<Arc<Process>>,
    id: usize,
    cookie: u32,
    range: Range<usize>,
}

impl FarGroup {
    fn call<T: Wire>(&self, name: &str, argument: impl Wire) -> T {
        let process = self.process.as_ref().unwrap();
        process.groups.lock().unwrap().call(name, (self.id, argument))
    }
}

impl Drop for FarGroup {
    fn drop(&mut self) {
        if self.process.is_some() && !thread::panicking() {
            self.call("drop", ())
        }
    }
}

/// There: plays `role` until the end of the line.
pub fn play(role: &str, what: &[u8], line: &Line) {
    let (_, groups) = fd::recv_descriptor(&line.0, &mut [0]).unwrap();
    let responder = if role == "respond" {
        FaultResponder::from_shared(UnattachedEnd::recv_from(&line.0).unwrap().into()).unwrap()
    } else {
        let (depth, is_headed) = Wire::take(&mut &what[..]);
        let format = if is_headed { Format::IOMMU_PGFAULT_V2 } else { Format::IOMMU_PGFAULT_V1 };
        let (responder, end) = fault::shared_responder(&Options::new().format(format).depth(depth)).unwrap();
        end.send_over(&line.0).unwrap();
        responder
    };
    let open = Mutex::default();
    thread::scope(|scope| {
        scope.spawn(|| serve_groups(&Line(groups.into()), &open));
        serve(line, responder, &open);
    });
}

/// Groups that were received and neither answered nor dropped, by a number that comes once.
type Open = Mutex<HashMap<usize, FaultGroup>>;

/// There: does what the responder is told.
fn serve(line: &Line, mut responder: FaultResponder, open: &Open) {
    let mut last = 0;
    while let Some((name, arguments)) = line.next_call() {
        let arguments = &mut arguments.as_slice();
        match name.as_str() {
            "wait" => line.send(responder.wait(Wire::take(arguments))),
            "set_busy_poll" => {
                responder.set_busy_poll(Wire::take(arguments));
                line.send(());
            }
            "respond_batch" => line.send(responder.respond_batch(&Vec::take(arguments))),
            "next_cancelled" => line.send(responder.next_cancelled()),
            "open_cookies" => line.send(responder.open_cookies()),
            "received" => line.send(responder.received()),
            "readable" => line.send(super::readable(&responder)),
            "wait_readable" => line.send(super::wait_readable(&responder)),
            "drop" => {
                drop(responder);
                return line.send(());
            }
            receive_by => {
                let mut pages = vec![PgFault::default(); Wire::take(arguments)];
                let received = receive(&mut responder, receive_by, arguments, &mut pages);
                line.send(received.map(|groups| {
                    let filled = groups.last().map_or(0, |group| group.range().end);
                    let told: Vec<_> = groups.into_iter().map(|group| keep(group, &mut last, open)).collect();
                    (told, pages[..filled].to_vec())
                }));
            }
        }
    }
}

fn receive(
    responder: &mut FaultResponder,
    by: &str,
    arguments: &mut &[u8],
    pages: &mut [PgFault],
) -> Result<Vec<FaultGroup>, TryRecvError> {
    Ok(vec![match by {
        "try_recv_group" => responder.try_recv_group(pages)?,
        "recv_group" => responder.recv_group(pages)?,
        "recv_group_timeout" => responder.recv_group_timeout(pages, Wire::take(arguments))?,
        "recv_groups" => {
            let mut groups: Vec<_> = (0..usize::take(arguments)).map(|_| None).collect();
            responder.recv_groups(pages, &mut groups)?;
            return Ok(groups.into_iter().flatten().collect());
        }
        name => panic!("{name}"),
    }])
}

/// What is told of a group: its number, cookie and range.
fn keep(group: FaultGroup, last: &mut usize, open: &Open) -> (usize, (u32, (usize, usize))) {
    *last += 1;
    let told = (group.cookie(), (group.range().start, group.range().end));
    open.lock().unwrap().insert(*last, group);
    (*last, told)
}

/// There: does what groups are told.
fn serve_groups(line: &Line, open: &Open) {
    while let Some((name, arguments)) = line.next_call() {
        let arguments = &mut arguments.as_slice();
        let id = usize::take(arguments);
        let mut open = open.lock().unwrap();
        match name.as_str() {
            "is_cancelled" => line.send(open[&id].is_cancelled()),
            "into_cookie" => line.send(open.remove(&id).unwrap().into_cookie()),
            "drop" => {
                drop(open.remove(&id).unwrap());
                line.send(());
            }
            "respond" => {
                let group = open.remove(&id).unwrap();
                line.send(group.respond(Wire::take(arguments)).map_err(|error| match error {
                    RespondError::WouldBlock(group) => {
                        open.insert(id, group);
                        RespondError::WouldBlock(())
                    }
                    RespondError::Closed => RespondError::Closed,
                    RespondError::StaleCookie => RespondError::StaleCookie,
                    error => panic!("{error:?}"),
                }));
            }
            name => panic!("{name}"),
        }
    }
}

/// A responder, here or there.
#[allow(clippy::large_enum_variant, reason = "a test has one or two")]
pub enum AnyResponder {
    Here(FaultResponder),
    There(FarResponder),
}

impl AnyResponder {
    pub fn try_recv_group(&mut self, pages: &mut [PgFault]) -> Result<AnyGroup, TryRecvError> {
        match self {
            Self::Here(responder) => responder.try_recv_group(pages).map(AnyGroup::Here),
            Self::There(far) => far.receive("try_recv_group", (), pages).map(only),
        }
    }

    pub fn recv_group(&mut self, pages: &mut [PgFault]) -> Result<AnyGroup, TryRecvError> {
        match self {
            Self::Here(responder) => responder.recv_group(pages).map(AnyGroup::Here),
            Self::There(far) => far.receive("recv_group", (), pages).map(only),
        }
    }

    pub fn recv_group_timeout(
        &mut self,
        pages: &mut [PgFault],
        timeout: Duration,
    ) -> Result<AnyGroup, TryRecvError> {
        match self {
            Self::Here(responder) => responder.recv_group_timeout(pages, timeout).map(AnyGroup::Here),
            Self::There(far) => far.receive("recv_group_timeout", timeout, pages).map(only),
        }
    }

    pub fn recv_groups(
        &mut self,
        pages: &mut [PgFault],
        groups: &mut [Option<AnyGroup>],
    ) -> Result<usize, TryRecvError> {
        let places = groups.iter_mut().filter(|group| group.is_none());
        let received = match self {
            Self::Here(responder) => {
                let mut received: Vec<_> = places.map(|_| None).collect();
                responder.recv_groups(pages, &mut received)?;
                received.into_iter().flatten().map(AnyGroup::Here).collect()
            }
            Self::There(far) => far.receive("recv_groups", places.count(), pages)?,
        };
        let count = received.len();
        let places = groups.iter_mut().filter(|group| group.is_none());
        places.zip(received).for_each(|(place, group)| *place = Some(group));
        Ok(count)
    }

    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, TryRecvError> {
        match self {
            Self::Here(responder) => responder.wait(timeout),
            Self::There(far) => far.call("wait", timeout),
        }
    }

    pub fn set_busy_poll(&mut self, busy_poll: Duration) {
        match self {
            Self::Here(responder) => responder.set_busy_poll(busy_poll),
            Self::There(far) => far.call("set_busy_poll", busy_poll),
        }
    }

    pub fn respond(&self, response: PageResponse) -> Result<(), RespondError<()>> {
        match self {
            Self::Here(responder) => responder.respond(response),
            Self::There(_) => self.respond_batch(&[response]).map(|_| ()),
        }
    }

    pub fn respond_batch(&self, responses: &[PageResponse]) -> Result<usize, RespondError<()>> {
        match self {
            Self::Here(responder) => responder.respond_batch(responses),
            Self::There(far) => far.call("respond_batch", responses.to_vec()),
        }
    }

    pub fn next_cancelled(&self) -> Option<u32> {
        match self {
            Self::Here(responder) => responder.next_cancelled(),
            Self::There(far) => far.call("next_cancelled", ()),
        }
    }

    pub fn open_cookies(&self) -> Vec<u32> {
        match self {
            Self::Here(responder) => responder.open_cookies(),
            Self::There(far) => far.call("open_cookies", ()),
        }
    }

    pub fn received(&self) -> u64 {
        match self {
            Self::Here(responder) => responder.received(),
            Self::There(far) => far.call("received", ()),
        }
    }
}

impl Responds for AnyResponder {
    type Group = AnyGroup;
    fn next_group(&mut self, pages: &mut [PgFault]) -> Result<(Self::Group, Range<usize>), TryRecvError> {
        let group = self.try_recv_group(pages)?;
        let range = group.range();
        Ok((group, range))
    }
    fn next_cancelled(&self) -> Option<u32> {
        self.next_cancelled()
    }
}

fn only(mut groups: Vec<AnyGroup>) -> AnyGroup {
    groups.pop().unwrap()
}

impl Pollable for AnyResponder {
    fn readable(&self) -> bool {
        match self {
            Self::Here(responder) => super::readable(responder),
            Self::There(far) => far.call("readable", ()),
        }
    }

    fn wait_readable(&self) -> bool {
        match self {
            Self::Here(responder) => super::wait_readable(responder),
            Self::There(far) => far.call("wait_readable", ()),
        }
    }
}

/// A group, here or there.
pub enum AnyGroup {
    Here(FaultGroup),
    There(FarGroup),
}

impl fmt::Debug for AnyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyGroup").field("cookie", &self.cookie()).finish_non_exhaustive()
    }
}

impl AnyGroup {
    pub fn cookie(&self) -> u32 {
        match self {
            Self::Here(group) => group.cookie(),
            Self::There(group) => group.cookie,
        }
    }

    pub fn len(&self) -> usize {
        self.range().len()
    }

    pub fn range(&self) -> Range<usize> {
        match self {
            Self::Here(group) => group.range(),
            Self::There(group) => group.range.clone(),
        }
    }

    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Here(group) => group.is_cancelled(),
            Self::There(group) => group.call("is_cancelled", ()),
        }
    }

    pub fn respond(self, code: ResponseCode) -> Result<(), RespondError<Self>> {
        match self {
            Self::Here(group) => group.respond(code).map_err(|error| match error {
                RespondError::WouldBlock(group) => RespondError::WouldBlock(Self::Here(group)),
                RespondError::Closed => RespondError::Closed,
                RespondError::StaleCookie => RespondError::StaleCookie,
                error => panic!("{error:?}"),
            }),
            Self::There(mut group) => match group.call::<Result<_, _>>("respond", code) {
                Err(RespondError::WouldBlock(())) => Err(RespondError::WouldBlock(Self::There(group))),
                outcome => {
                    group.process = None;
                    outcome.map_err(|error| match error {
                        RespondError::Closed => RespondError::Closed,
                        _ => RespondError::StaleCookie,
                    })
                }
            },
        }
    }

    pub fn into_cookie(self) -> u32 {
        match self {
            Self::Here(group) => group.into_cookie(),
            Self::There(mut group) => {
                let cookie = group.call("into_cookie", ());
                group.process = None;
                cookie
            }
        }
    }
}
