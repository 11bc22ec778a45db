//! Answers the page faults of several address spaces on a pool of std threads, behind one router.
//!
//! [`Threads`] is all that an executor takes: a bounded queue and threads that work on it. It can be used as it
//! stands. A pool of any other kind is one `impl Executor` away.

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use clap::Parser;
use recordfd::fault::{
    Executor, FaultRequest, FaultRouter, FaultSource, FaultWork, Options, ReportError, ResponseCode,
};
use recordfd::uapi::{PgFault, PgFaultPerm};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Answers page faults of several address spaces on a pool of threads.
#[derive(Parser)]
#[command(after_help = "\
Example: fault_threads --threads 4 --pasids 8 --faults 10000

Exit status: 0 every fault was answered once, 1 something was not, 2 wrong usage.")]
struct Arguments {
    /// Threads that answer.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Address spaces, each of which faults by turns.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pasids: u32,
    /// Faults in all.
    #[arg(long, default_value_t = 1000)]
    faults: u64,
}

/// Threads that answer work with one function.
struct Threads {
    queue: SyncSender<FaultWork>,
}

impl Threads {
    /// `count` threads behind a queue of `depth`. They end when the executor is dropped.
    fn start(
        count: u32,
        depth: u32,
        answer: impl Fn(&[PgFault]) -> ResponseCode + Send + Sync + 'static,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let (queue, work) = sync_channel::<FaultWork>(depth as usize);
        let (work, answer) = (Arc::new(Mutex::new(work)), Arc::new(answer));
        let thread = |_| {
            let (work, answer) = (work.clone(), answer.clone());
            thread::spawn(move || {
                loop {
                    // Bound first, or the lock would be held while it is answered.
                    let next = work.lock().expect("no thread panics with it").recv();
                    let Ok(work) = next else { break };
                    let code = answer(work.pages());
                    // Too late if its source was detached meanwhile: the device was told so.
                    let _ = work.respond(code);
                }
            })
        };
        let threads = (0..count).map(thread).collect();
        (Self { queue }, threads)
    }
}

impl Executor for Threads {
    fn execute(&self, work: FaultWork) {
        // It is as deep as the handle, so it is never full; work that is dropped here is answered INVALID.
        let _ = self.queue.try_send(work);
    }
}

const DEVICE: u32 = 1;
const DEPTH: u32 = 64;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (tell, told) = channel();
    let router = FaultRouter::new(&Options::new(), move |ended| tell.send(ended).expect("main receives"))?;
    let by_pasid = Arc::new(Mutex::new(HashMap::new()));
    let answer = {
        let by_pasid = by_pasid.clone();
        move |pages: &[PgFault]| {
            *by_pasid.lock().expect("nobody panics with it").entry(pages[0].pasid).or_insert(0_u64) += 1;
            ResponseCode::Success
        }
    };
    let (executor, threads) = Threads::start(arguments.threads, DEPTH, answer);
    // One device has all of it.
    let handle = router.executor(&Options::new().depth(DEPTH).per_device(DEPTH), executor)?;
    for pasid in 0..arguments.pasids {
        router.attach(FaultSource::pasid(DEVICE, pasid), &handle)?;
    }

    let mut ended = Vec::new();
    for number in 0..arguments.faults {
        let pasid = Some((number % u64::from(arguments.pasids)) as u32);
        let (perm, addr) = (PgFaultPerm::READ, number << 12);
        let request =
            FaultRequest { dev_id: DEVICE, pasid, perm, last: true, addr, ..FaultRequest::default() };
        while let Err(error) = router.report(request) {
            match error {
                // There is room again when something has ended.
                ReportError::Full(_) | ReportError::DeviceFull(_) => ended.push(told.recv()?),
                error => return Err(error.into()),
            }
        }
    }
    // A detach would complete INVALID what is not answered by now.
    while (ended.len() as u64) < arguments.faults {
        ended.push(told.recv()?);
    }
    router.detach_device(DEVICE)?;
    drop((handle, router));
    threads.into_iter().for_each(|thread| thread.join().expect("it has not panicked"));
    ended.extend(told);

    let by_pasid = by_pasid.lock().expect("nobody panics with it");
    for pasid in 0..arguments.pasids {
        println!("PASID {pasid}: {} faults answered", by_pasid.get(&pasid).unwrap_or(&0));
    }
    let invalid = ended.iter().filter(|ended| ended.code != ResponseCode::Success).count();
    println!("{} faults, each answered once, {invalid} INVALID", ended.len());
    if (ended.len() as u64, invalid) != (arguments.faults, 0) {
        std::process::exit(1);
    }
    Ok(())
}
