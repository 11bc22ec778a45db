//! Waits for three channels of different formats on one thread with polling, in level mode.
//!
//! A registration owns its end. The program drops it when the peer is gone, for such an end stays ready.

mod wait;

use std::sync::Arc;

use clap::Parser;
use polling::{Event, Events, Poller};
use recordfd::reactor::polling::Registration;

use wait::{Arguments, Ends, Result, Served, start, timeout};

const NOTIFICATIONS: usize = 0;
const FAULTS: usize = 1;
const REQUESTS: usize = 2;

fn main() -> Result<()> {
    let (Ends { notifications, faults, requests }, other_side) = start(&Arguments::parse())?;
    let (poller, mut events) = (Arc::new(Poller::new()?), Events::new());
    let mut notifications = Some(Registration::new(&poller, notifications, Event::readable(NOTIFICATIONS))?);
    let faults = Registration::new(&poller, faults, Event::readable(FAULTS))?;
    let mut requests = Some(Registration::new(&poller, requests, Event::readable(REQUESTS))?);

    let mut served = Served::default();
    while notifications.is_some() || requests.is_some() || !served.faults_have_ended() {
        events.clear();
        poller.wait(&mut events, timeout(&faults))?;
        for event in events.iter() {
            match event.key {
                NOTIFICATIONS => {
                    if let Some(receiver) = &mut notifications
                        && !served.notifications(receiver, &faults)?
                    {
                        notifications = None;
                    }
                }
                REQUESTS => {
                    if let Some(responder) = &mut requests
                        && !served.requests(responder)?
                    {
                        requests = None;
                    }
                }
                // Completions: below, for a deadline makes no event.
                _ => {}
            }
        }
        if !served.faults(&faults)? {
            return Err("the other side did not wait for the faults to end".into());
        }
    }
    drop(faults);
    other_side.join().expect("the other side does not panic")?;
    served.print();
    Ok(())
}
