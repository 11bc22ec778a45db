//! Starts a program with the consumer's end of a channel, and feeds it.

mod feed;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::CommandFdExt;
use recordfd::fault::Cause;
use recordfd::uapi::Protocol;
use recordfd::{TryRecvError, UnattachedEnd};
use serde_json::Value;

use crate::args::Exec;
use crate::formats::{self, Format};
use crate::lines::{Bad, Stop, each_line, print, tell, with_source};
use crate::record;
use crate::text::unhex;
use feed::{Answer, Feed, Sent};

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(1);

/// How long a feed is given to notice that the program is gone; one from a terminal never does.
const GRACE: Duration = Duration::from_millis(500);

/// The status for a must-answer record that was not answered.
const UNANSWERED: u8 = 3;

pub(crate) fn run(options: &Exec) -> ExitCode {
    let from_stdin = options.from.as_os_str() == "-";
    let input: Box<dyn BufRead + Send> = if from_stdin {
        Box::new(BufReader::new(io::stdin()))
    } else {
        match File::open(&options.from) {
            Ok(file) => Box::new(BufReader::new(file)),
            Err(error) => return fail(2, &format!("{}: {error}", options.from.display())),
        }
    };
    let (feed, end) = match feed::open(options) {
        Ok(channel) => channel,
        Err(error) => return fail(1, &format!("no channel: {}", with_source(&error))),
    };
    let child = match start(options, end, from_stdin) {
        Ok(child) => child,
        Err(error) => {
            let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            return fail(status, &format!("{}: {error}", options.command[0].display()));
        }
    };
    let exec = Running::start(options, feed.into(), input);
    exec.wait_for_feed();
    exec.wait_for_answers(Duration::from_millis(options.respond_timeout.into()));
    exec.finish(child)
}

fn fail(status: u8, message: &str) -> ExitCode {
    tell(message);
    ExitCode::from(status)
}

/// Starts the program; `end` is open in it, and closed here.
fn start(options: &Exec, end: UnattachedEnd, from_stdin: bool) -> io::Result<Child> {
    let depth = end.info().depth;
    let end = OwnedFd::from(end);
    let mut command = Command::new(&options.command[0]);
    command
        .args(&options.command[1..])
        .env("RECORDFD_FD", end.as_raw_fd().to_string())
        .env("RECORDFD_FORMAT", options.format.name)
        .env("RECORDFD_DEPTH", depth.to_string());
    if from_stdin {
        command.stdin(Stdio::null());
    }
    command.preserved_fds(vec![end]);
    command.spawn()
}

/// What a feed came to.
struct Fed {
    bad: Bad,
    /// Whether a record was left that could not be sent any more.
    is_cut: bool,
}

/// What the answers came to.
struct Collected {
    bad: Bad,
    unanswered: u64,
}

/// A program that is fed.
struct Running {
    feed: Arc<dyn Feed>,
    must_answer: bool,
    feeding: thread::JoinHandle<Fed>,
    collecting: thread::JoinHandle<Collected>,
    is_over: Arc<AtomicBool>,
}

impl Running {
    fn start(options: &Exec, feed: Arc<dyn Feed>, mut input: Box<dyn BufRead + Send>) -> Self {
        let layout = options.format.channel.and_then(recordfd::uapi::Format::layout);
        let must_answer = layout.is_some_and(|layout| layout.protocol == Protocol::MustAnswer);
        let is_over = Arc::new(AtomicBool::new(false));
        // One that is never answered does not hold up the feed for ever.
        let patience = Duration::from_millis(options.respond_timeout.into()) + Duration::from_secs(1);
        let patience = must_answer.then_some(patience);
        let feeding = thread::spawn({
            let feed = feed.clone();
            move || feed_all(&*feed, &mut *input, patience)
        });
        let collecting = thread::spawn({
            let (feed, is_over) = (feed.clone(), is_over.clone());
            let reply = options.format.reply.and_then(formats::find);
            move || collect_all(&*feed, reply, &is_over)
        });
        Self { feed, must_answer, feeding, collecting, is_over }
    }

    /// Waits until all of the input is fed, or nobody takes it any more.
    fn wait_for_feed(&self) {
        let mut closed = None;
        while !self.feeding.is_finished() {
            if self.feed.is_closed() && closed.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until no answer is due; events are not waited for any longer than `timeout`.
    fn wait_for_answers(&self, timeout: Duration) {
        let since = Instant::now();
        while !self.feed.is_settled()
            && !self.feed.is_closed()
            && (self.must_answer || since.elapsed() < timeout)
        {
            thread::sleep(PAUSE);
        }
    }

    /// Takes the last answers, closes the channel, and waits for the program.
    fn finish(self, mut child: Child) -> ExitCode {
        self.is_over.store(true, Ordering::Relaxed);
        let collected = self.collecting.join().unwrap_or(Collected { bad: Bad(true), unanswered: 0 });
        let fed = if self.feeding.is_finished() {
            self.feeding.join().unwrap_or(Fed { bad: Bad(true), is_cut: true })
        } else {
            // It waits for input that nobody would take.
            tell("CMD has closed the channel before the input has ended");
            Fed { bad: Bad::default(), is_cut: false }
        };
        let collected = Collected { unanswered: collected.unanswered + self.feed.discarded(), ..collected };
        drop(self.feed);
        let status = match child.wait() {
            Ok(status) => status.code().unwrap_or(128 + status.signal().unwrap_or(0)),
            Err(error) => return fail(1, &format!("waiting failed: {error}")),
        };
        let unanswered = collected.unanswered + u64::from(self.must_answer && fed.is_cut);
        if unanswered > 0 {
            return fail(
                UNANSWERED,
                &format!("not answered: {unanswered} at least; the status of CMD is {status}"),
            );
        }
        let status = if status == 0 { u8::from(fed.bad.0 || collected.bad.0) } else { status as u8 };
        ExitCode::from(status)
    }
}

/// Feeds each record of the input; as long as `patience` to a channel without room.
fn feed_all(feed: &dyn Feed, input: &mut dyn BufRead, patience: Option<Duration>) -> Fed {
    let mut is_cut = false;
    let outcome = each_line(input, |line, number| {
        let bytes = match unhex(line) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let since = Instant::now();
        let stop = loop {
            match feed.send(&bytes) {
                Sent::Taken => return Ok(Ok(())),
                Sent::Bad(error) => return Ok(Err(error)),
                Sent::Gone => break "CMD has closed the channel",
                Sent::Busy if patience.is_some_and(|patience| since.elapsed() > patience) => {
                    break "CMD answers too little for the depth";
                }
                Sent::Busy => thread::sleep(PAUSE),
            }
        };
        is_cut = true;
        Err(Stop::Failed(format!("fed up to line {}: {stop}", number - 1)))
    });
    let bad = outcome.unwrap_or_else(|stop| {
        if let Stop::Failed(error) = &stop {
            tell(error);
        }
        Bad(!is_cut)
    });
    Fed { bad, is_cut }
}

/// Prints answers until none can come, or none comes and it `is_over`.
fn collect_all(feed: &dyn Feed, reply: Option<&Format>, is_over: &AtomicBool) -> Collected {
    let mut collected = Collected { bad: Bad::default(), unanswered: 0 };
    // Who has closed the output still wants the status.
    let mut is_printing = true;
    let mut sink = |answer: Answer| {
        collected.unanswered += u64::from(answer.cause.is_some_and(|cause| cause != Cause::Answered));
        if is_printing && let Some(line) = reply.and_then(|reply| shown(reply, &answer)) {
            is_printing = match print(&line) {
                Ok(()) => true,
                Err(Stop::BrokenPipe) => false,
                Err(Stop::Failed(error)) => {
                    tell(&error);
                    collected.bad = Bad(true);
                    false
                }
            };
        }
    };
    let stop = loop {
        // Before looking: what has come by then is collected.
        let is_last = is_over.load(Ordering::Relaxed);
        match feed.collect(&mut sink) {
            Ok(()) => {}
            Err(TryRecvError::Empty) if is_last => break None,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Closed) => break None,
            Err(error) => break Some(error),
        }
    };
    if let Some(error) = stop {
        tell(&with_source(&error));
        collected.bad = Bad(true);
    }
    collected
}

fn shown(reply: &Format, answer: &Answer) -> Option<String> {
    let mut fields = record::decode(reply, &answer.bytes).ok()?;
    if let Some(cause) = answer.cause {
        fields.insert("cause".to_owned(), format!("{cause:?}").into());
    }
    Some(Value::Object(fields).to_string())
}
