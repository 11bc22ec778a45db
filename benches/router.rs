//! What routing adds to a report: with a thousand handles attached, against the bare reporter.
//!
//! `cargo bench --bench router` times both with criterion, then prints medians of interleaved rounds and of the
//! difference in each round. Timed are the reports alone; what is reported is received, answered and
//! completed in between, untimed. Both sides are on one thread, so that nothing but the work is timed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use recordfd::fault::{
    self, FaultCompletion, FaultHandle, FaultReporter, FaultRequest, FaultResponder, FaultRouter,
    FaultSource, Options, ResponseCode,
};
use recordfd::uapi::{PageResponse, PageResponseCode, PgFault, PgFaultPerm};

/// Reports timed together; as many groups are in flight.
const BATCH: usize = 64;
/// Handles attached.
const HANDLES: u32 = 1000;
/// PASIDs of each device.
const PASIDS: u32 = 25;
/// Rounds of the table.
const ROUNDS: usize = 51;
/// Batches of a round.
const BATCHES: usize = 200;

/// Where a report goes, and who answers it.
struct Contender {
    name: &'static str,
    report: Box<dyn Fn(FaultRequest)>,
    settle: Box<dyn FnMut()>,
}

fn options() -> Options {
    let depth = 2 * BATCH as u32;
    Options::new().depth(depth).per_device(depth)
}

/// Requests of one batch, from all over the devices and PASIDs.
fn requests() -> [FaultRequest; BATCH] {
    std::array::from_fn(|index| {
        // A step that is prime to the number, so that no handle comes twice in a row.
        let source = index as u32 * 389 % HANDLES;
        let (dev_id, pasid) = (source / PASIDS, Some(source % PASIDS));
        let perm = PgFaultPerm::WRITE;
        FaultRequest { dev_id, pasid, perm, last: true, addr: 0x1000, ..FaultRequest::default() }
    })
}

/// Answers everything that waits.
fn answer(responder: &mut FaultResponder) {
    let mut pages = [PgFault::default(); BATCH];
    let mut groups = [const { None }; BATCH];
    if let Ok(count) = responder.recv_groups(&mut pages, &mut groups) {
        let cookies = groups[..count].iter_mut().filter_map(Option::take).map(|group| group.into_cookie());
        let answer = |cookie| PageResponse { cookie, code: PageResponseCode::SUCCESS };
        let answers: Vec<_> = cookies.map(answer).collect();
        responder.respond_batch(&answers).expect("the reporter is there");
    }
}

fn bare() -> Contender {
    let (reporter, mut responder) = fault::channel(&options()).expect("a channel");
    let device: FaultReporter = reporter.clone();
    Contender {
        name: "bare reporter",
        report: Box::new(move |request| {
            device.report(request).expect("there is room");
        }),
        settle: Box::new(move || {
            answer(&mut responder);
            let mut completions = [FaultCompletion::default(); BATCH];
            black_box(reporter.completions(&mut completions).expect("they are answered"));
        }),
    }
}

/// A router with one handle attached to every source.
fn routed(name: &'static str, make: impl Fn(&FaultRouter) -> (FaultHandle, Box<dyn FnMut()>)) -> Contender {
    let router = FaultRouter::new(&options(), |ended| {
        black_box(ended);
    });
    let router = router.expect("options that can be");
    let (handle, mut answer) = make(&router);
    for source in 0..HANDLES {
        router
            .attach(FaultSource::pasid(source / PASIDS, source % PASIDS), &handle)
            .expect("nobody is there");
    }
    let device = router.clone();
    Contender {
        name,
        report: Box::new(move |request| {
            device.report(request).expect("there is room");
        }),
        settle: Box::new(move || {
            answer();
            router.collect(&handle);
        }),
    }
}

fn queue(router: &FaultRouter) -> (FaultHandle, Box<dyn FnMut()>) {
    let (reporter, mut responder) = fault::channel(&options()).expect("a channel");
    (router.queue(reporter).expect("it is the only one"), Box::new(move || answer(&mut responder)))
}

fn inline(router: &FaultRouter) -> (FaultHandle, Box<dyn FnMut()>) {
    let function = |pages: &[PgFault]| {
        black_box(pages);
        ResponseCode::Success
    };
    (router.inline(&options(), function).expect("options that can be"), Box::new(|| {}))
}

fn contenders() -> [Contender; 3] {
    [bare(), routed("router, queue", queue), routed("router, function, answer included", inline)]
}

/// The time of the reports of `batches` batches.
fn reports(contender: &mut Contender, batches: usize) -> Duration {
    let requests = requests();
    let mut time = Duration::ZERO;
    for _ in 0..batches {
        let began = Instant::now();
        requests.iter().for_each(|request| (contender.report)(*request));
        time += began.elapsed();
        (contender.settle)();
    }
    time
}

fn main() {
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(1)).sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group(format!("a report, {HANDLES} sources attached"));
    group.throughput(Throughput::Elements(BATCH as u64));
    for mut contender in contenders() {
        group.bench_function(contender.name, |bencher| {
            bencher.iter_custom(|count| reports(&mut contender, usize::try_from(count).expect("64 bits")));
        });
    }
    group.finish();
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        table();
    }
}

fn table() {
    let mut contenders = contenders();
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            times.push(reports(contender, BATCHES).as_nanos() as f64 / (BATCHES * BATCH) as f64);
        }
    }
    println!(
        "\nns a report, median of {ROUNDS} interleaved rounds (least to most), and what is added to the bare one"
    );
    let bare = times[0].clone();
    for (contender, times) in contenders.iter().zip(&times) {
        let added: Vec<_> = times.iter().zip(&bare).map(|(time, bare)| time - bare).collect();
        let [(least, median, most), (_, added, _)] = [times.clone(), added].map(spread);
        println!("  {:34} {median:7.1}  ({least:.1} to {most:.1})  {added:+6.1}", contender.name);
    }
}

fn spread(mut times: Vec<f64>) -> (f64, f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2], times[times.len() - 1])
}
