//! Two processes and a channel in shared memory: a device that makes events, and a VMM that takes them.
//!
//! The device makes the channel, starts the VMM (this binary again) and gives it the other end as descriptor 0.
//! Both then work as fast as they can and make no system call for it; `strace -f -c` shows what is left.

use std::hint::spin_loop;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use recordfd::event::{self, Received, Receiver, SoleSender};
use recordfd::uapi::{Le64, Smmuv3Event};
use recordfd::{Options, TryRecvError, TrySendError, fd};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Sends events to another process through shared memory, and says how long one took.
#[derive(Parser)]
#[command(after_help = "\
How few system calls there are:
  strace -f -c -o calls target/release/examples/shared_pair --records 10000000

Exit status: 0 every record has arrived, 1 something went wrong, 2 wrong usage.")]
struct Arguments {
    /// Be the VMM: take the events from descriptor 0.
    #[arg(long, hide = true)]
    vmm: bool,
    /// How many records to send.
    #[arg(long, default_value_t = 10_000_000)]
    records: u64,
    /// How many records the channel has room for.
    #[arg(long, default_value_t = 1024)]
    depth: u32,
    /// How many records go with one call.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// How long the VMM looks for events before it sleeps, in microseconds.
    #[arg(long, default_value_t = 50)]
    busy_poll: u64,
    /// Leave the fence of each call to the side that sleeps; pays where both have a processor of their own.
    #[arg(long)]
    asymmetric_fence: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.batch == 0 {
        eprintln!("shared_pair: a call takes one record at least");
        return ExitCode::from(2);
    }
    match if arguments.vmm { vmm(&arguments) } else { device(&arguments) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shared_pair: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the channel and sends.
fn device(arguments: &Arguments) -> Result<()> {
    let (mut tx, end) = event::shared::<Smmuv3Event>(&Options::new().depth(arguments.depth))?;
    if arguments.asymmetric_fence {
        tx.use_asymmetric_fence()?;
    }
    let mut vmm = Command::new(std::env::current_exe()?)
        .args(["--vmm", "--records", &arguments.records.to_string()])
        .args(["--batch", &arguments.batch.to_string()])
        .args(["--busy-poll", &arguments.busy_poll.to_string()])
        .args(arguments.asymmetric_fence.then_some("--asymmetric-fence"))
        .stdin(OwnedFd::from(end))
        .spawn()?;
    let began = Instant::now();
    send_all(&mut tx, arguments)?;
    drop(tx);
    if !vmm.wait()?.success() {
        return Err("the VMM has failed".into());
    }
    let took = began.elapsed().as_nanos() as f64 / arguments.records.max(1) as f64;
    println!("{} records to another process, {took:.1} ns each", arguments.records);
    Ok(())
}

fn send_all(tx: &mut SoleSender<Smmuv3Event>, arguments: &Arguments) -> Result<()> {
    let mut batch = vec![Smmuv3Event { evt: [Le64::new(0); 4] }; arguments.batch];
    let mut sent = 0;
    while sent < arguments.records {
        let count = (arguments.records - sent).min(batch.len() as u64) as usize;
        for (number, event) in (sent..).zip(&mut batch[..count]) {
            event.evt[0] = Le64::new(number);
        }
        match tx.send_batch(&batch[..count]) {
            Ok(accepted) => sent += accepted as u64,
            // A device would do something else meanwhile, or slow its guest down.
            Err(TrySendError::Full(())) => spin_loop(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes events until the device is gone, and checks that each has come, in order.
fn vmm(arguments: &Arguments) -> Result<()> {
    let mut rx = Receiver::<Smmuv3Event>::from_shared(fd::take_stdin()?)?;
    rx.set_busy_poll(Duration::from_micros(arguments.busy_poll));
    if arguments.asymmetric_fence {
        rx.use_asymmetric_fence()?;
    }
    let (mut items, mut next) = (vec![Received::default(); arguments.batch], 0);
    while rx.wait(None)? {
        let count = match rx.recv_batch(&mut items) {
            Ok(count) => count,
            Err(TryRecvError::Empty) => continue,
            Err(TryRecvError::Closed) => break,
            Err(error) => return Err(error.into()),
        };
        for event in items[..count].iter().filter_map(Received::record) {
            if event.evt[0].get() != next {
                return Err(format!("record {} came in place of {next}", event.evt[0].get()).into());
            }
            next += 1;
        }
    }
    if next != arguments.records {
        return Err(format!("{next} records have arrived of {}", arguments.records).into());
    }
    let counters = rx.counters();
    println!(
        "{next} received; found by looking {} times, slept {} times",
        counters.busy_polls, counters.sleeps
    );
    Ok(())
}
