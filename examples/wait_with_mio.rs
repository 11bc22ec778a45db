//! Waits for three channels of different formats on one thread with mio, which is edge-triggered.
//!
//! After an event the program receives until `Empty`, in `wait/mod.rs`. Only then comes another event.

mod wait;

use clap::Parser;
use mio::{Events, Interest, Poll, Token};

use wait::{Arguments, Ends, Result, Served, start, timeout};

const NOTIFICATIONS: Token = Token(0);
const FAULTS: Token = Token(1);
const REQUESTS: Token = Token(2);

fn main() -> Result<()> {
    let (Ends { mut notifications, mut faults, mut requests }, other_side) = start(&Arguments::parse())?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(16));
    poll.registry().register(&mut notifications, NOTIFICATIONS, Interest::READABLE)?;
    poll.registry().register(&mut faults, FAULTS, Interest::READABLE)?;
    poll.registry().register(&mut requests, REQUESTS, Interest::READABLE)?;

    let (mut served, mut open) = (Served::default(), [true; 2]);
    while open.contains(&true) || !served.faults_have_ended() {
        poll.poll(&mut events, timeout(&faults))?;
        for event in &events {
            match event.token() {
                NOTIFICATIONS => open[0] = served.notifications(&mut notifications, &faults)?,
                REQUESTS => open[1] = served.requests(&mut requests)?,
                // Completions: below, for a deadline makes no event.
                _ => {}
            }
        }
        if !served.faults(&faults)? {
            return Err("the other side did not wait for the faults to end".into());
        }
    }
    // Before the ends are dropped: the rule of mio.
    poll.registry().deregister(&mut notifications)?;
    poll.registry().deregister(&mut faults)?;
    poll.registry().deregister(&mut requests)?;
    drop(faults);
    other_side.join().expect("the other side does not panic")?;
    served.print();
    Ok(())
}
