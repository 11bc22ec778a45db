//! Records of IOMMU hardware: decoding, encoding, and turning page faults and their answers into them and back.
//!
//! `cargo bench --bench formats` times all of it with criterion, then prints a table of medians of interleaved
//! rounds, so that a machine whose speed drifts slows all of them alike. All on one core, from arrays of varied
//! records; each result is written once, and not moved again.

use std::array;
use std::fmt::Debug;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use recordfd::uapi::hw::amd::{self, EventLogEntry, PprLogEntry};
use recordfd::uapi::hw::pcie::{PageRequest, PrgResponse};
use recordfd::uapi::hw::riscv::{self, AtsPrgr, PageRequestRecord};
use recordfd::uapi::hw::smmuv3::{self, CmdResume, EventRecord, PriQueueEntry};
use recordfd::uapi::hw::virtio::Fault;
use recordfd::uapi::hw::vtd::{self, InvalidationDescriptor, PageRequestDescriptor};
use recordfd::uapi::hw::{GuestPolicy, HwError, Loss};
use recordfd::uapi::{PageResponse, PageResponseCode, PgFault, PgFaultFlags, PgFaultPerm};

/// Different records of each kind.
const RECORDS: usize = 1024;
/// Rounds of the table, and how often each goes through the records.
const ROUNDS: usize = 31;
const PASSES: usize = 64;

/// Something that is done to each record.
struct Contender {
    name: String,
    /// The time of this many passes over the records.
    run: Box<dyn Fn(usize) -> Duration>,
}

fn contender<T: Copy + 'static, U: Copy + 'static>(
    name: String,
    records: [T; RECORDS],
    work: impl Fn(&T) -> U + 'static,
) -> Contender {
    let run = move |passes| {
        let began = Instant::now();
        for _ in 0..passes {
            for record in black_box(&records) {
                black_box(&work(record));
            }
        }
        began.elapsed()
    };
    Contender { name, run: Box::new(run) }
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn once_in(&mut self, bound: u64) -> bool {
        (self.next() >> 32) % bound == 0
    }
}

fn made<T>(mut make: impl FnMut(&mut Random) -> T) -> [T; RECORDS] {
    let mut random = Random::new();
    array::from_fn(|_| make(&mut random))
}

/// A fault that every record can say, half of them for a PASID.
fn fault(random: &mut Random) -> PgFault {
    let read = random.once_in(2);
    let mut perm = if read { PgFaultPerm::READ } else { PgFaultPerm::WRITE };
    let mut flags = PgFaultFlags::LAST_PAGE;
    if random.once_in(2) {
        flags |= PgFaultFlags::PASID_VALID;
        perm.set(PgFaultPerm::EXEC, read && random.once_in(4));
        perm.set(PgFaultPerm::PRIV, random.once_in(4));
    }
    PgFault {
        flags,
        dev_id: 7,
        pasid: random.next() as u32 & 0xf_ffff,
        grpid: random.next() as u32 & 0x1ff,
        perm,
        addr: random.next() & 0x7fff_ffff_f000,
        ..PgFault::default()
    }
}

fn answer(random: &mut Random) -> PageResponse {
    let code = if random.once_in(4) { PageResponseCode::INVALID } else { PageResponseCode::SUCCESS };
    PageResponse { cookie: random.next() as u32, code }
}

/// Any bytes, of which `set` makes a record that is known.
fn bytes<const N: usize>(set: impl Fn(&mut [u8; N], u64)) -> [[u8; N]; RECORDS] {
    made(|random| {
        let mut bytes: [u8; N] = array::from_fn(|_| (random.next() >> 40) as u8);
        set(&mut bytes, random.next() >> 32);
        bytes
    })
}

/// Decoding these bytes, and encoding what they say.
fn coder<const N: usize, T: Copy + Debug + 'static>(
    name: &str,
    bytes: [[u8; N]; RECORDS],
    decode: impl Fn(&[u8; N]) -> T + 'static,
    encode: impl Fn(&T) -> Result<[u8; N], HwError> + 'static,
) -> [Contender; 2] {
    let values = bytes.each_ref().map(&decode);
    [
        contender(format!("decode  {name}"), bytes, decode),
        contender(format!("encode  {name}"), values, move |value| encode(value).expect("it was decoded")),
    ]
}

fn coders() -> Vec<Contender> {
    let code = |nibble: u8| move |bytes: &mut [u8; 16], _| bytes[7] = bytes[7] & 0xf | nibble << 4;
    let prd = |bytes: &mut [u8; 32], _| bytes[0] = 1;
    let pgrp = |bytes: &mut [u8; 32], _| (bytes[0], bytes[1]) = (bytes[0] & 0xf0 | 9, 0);
    let stall = |bytes: &mut [u8; 32], _| (bytes[0], bytes[11]) = (0x10, 0x80);
    let event = |bytes: &mut [u8; 32], random| bytes[0] = (random % 0x26) as u8;
    // The commands with codes that are sent.
    let pri_resp = |bytes: &mut [u8; 16], _| (bytes[0], bytes[9]) = (0x41, 0x20);
    let resume = |bytes: &mut [u8; 16], _| (bytes[0], bytes[1]) = (0x44, bytes[1] & 0xf0);
    let complete = |bytes: &mut [u8; 16], _| (bytes[7], bytes[13]) = (0x70, 0x10);
    let prgr = |bytes: &mut [u8; 16], _| (bytes[0], bytes[1], bytes[13]) = (0x84, bytes[1] & 0xf0, 0x10);
    let io_page_fault = code(2);
    let mut all = Vec::new();
    all.extend(coder(
        "VT-d page request",
        bytes(prd),
        PageRequestDescriptor::decode,
        PageRequestDescriptor::encode,
    ));
    all.extend(coder(
        "VT-d response",
        bytes(pgrp),
        InvalidationDescriptor::decode,
        InvalidationDescriptor::encode,
    ));
    all.extend(coder("VT-d fault", bytes(|_, _| ()), vtd::FaultRecord::decode, vtd::FaultRecord::encode));
    all.extend(coder("SMMUv3 stall", bytes(stall), EventRecord::decode, EventRecord::encode));
    all.extend(coder("SMMUv3 event of any kind", bytes(event), EventRecord::decode, EventRecord::encode));
    all.extend(coder("SMMUv3 page request", bytes(|_, _| ()), PriQueueEntry::decode, PriQueueEntry::encode));
    all.extend(coder("SMMUv3 response", bytes(pri_resp), smmuv3::Command::decode, smmuv3::Command::encode));
    all.extend(coder("SMMUv3 resume", bytes(resume), smmuv3::Command::decode, smmuv3::Command::encode));
    all.extend(coder("AMD page request", bytes(code(1)), PprLogEntry::decode, PprLogEntry::encode));
    all.extend(coder("AMD response", bytes(complete), amd::Command::decode, amd::Command::encode));
    all.extend(coder("AMD fault", bytes(io_page_fault), EventLogEntry::decode, EventLogEntry::encode));
    all.extend(coder(
        "RISC-V page request",
        bytes(|_, _| ()),
        PageRequestRecord::decode,
        PageRequestRecord::encode,
    ));
    all.extend(coder("RISC-V response", bytes(prgr), riscv::Command::decode, riscv::Command::encode));
    all.extend(coder(
        "RISC-V fault",
        bytes(|_, _| ()),
        riscv::FaultRecord::decode,
        riscv::FaultRecord::encode,
    ));
    all.extend(coder("virtio fault", bytes(|_, _| ()), Fault::decode, |report| Ok(report.encode())));
    all
}

/// Faults to the bytes of a record, and the bytes to faults.
fn faults<const N: usize>(
    name: &str,
    to_bytes: impl Fn(&PgFault) -> Result<([u8; N], Loss), HwError> + 'static,
    to_fault: impl Fn(&[u8; N]) -> (PgFault, Loss) + 'static,
) -> [Contender; 2] {
    let faults = made(fault);
    let to_bytes = move |fault: &PgFault| to_bytes(fault).expect("every record can say it");
    let bytes = faults.each_ref().map(|fault| to_bytes(fault).0);
    [
        contender(format!("from fault  {name}"), faults, to_bytes),
        contender(format!("to fault  {name}"), bytes, to_fault),
    ]
}

fn asked(request: Option<PageRequest>) -> (PgFault, Loss) {
    (request.map_or_else(PgFault::default, |request| request.to_fault(7, 9)), Loss::empty())
}

fn conversions() -> Vec<Contender> {
    const RID: u16 = 0x100;
    let policy = GuestPolicy::AsIs;
    let vtd = faults(
        "VT-d",
        move |fault| {
            let (descriptor, loss) = PageRequestDescriptor::from_fault(fault, RID, policy)?;
            Ok((descriptor.encode()?, loss))
        },
        |bytes| match PageRequestDescriptor::decode(bytes) {
            PageRequestDescriptor::Request(request) => asked(Some(request)),
            _ => asked(None),
        },
    );
    let stall = faults(
        "SMMUv3 stall",
        |fault| {
            let (record, loss) = EventRecord::from_fault(fault, RID.into())?;
            Ok((record.encode()?, loss))
        },
        |bytes| EventRecord::decode(bytes).to_fault(7, 9).expect("it is stalled"),
    );
    let priq = faults(
        "SMMUv3 page request",
        |fault| {
            let (request, loss) = PageRequest::from_fault(fault, RID.into())?;
            Ok((PriQueueEntry::Request(request).encode()?, loss))
        },
        |bytes| match PriQueueEntry::decode(bytes) {
            PriQueueEntry::Request(request) => asked(Some(request)),
            PriQueueEntry::StopMarker(_) => asked(None),
        },
    );
    let amd = faults(
        "AMD",
        move |fault| {
            let (entry, loss) = PprLogEntry::from_fault(fault, RID, policy)?;
            Ok((entry.encode()?, loss))
        },
        |bytes| match PprLogEntry::decode(bytes) {
            PprLogEntry::Request(entry) => asked(Some(entry.request)),
            _ => asked(None),
        },
    );
    let riscv = faults(
        "RISC-V",
        |fault| {
            let (request, loss) = PageRequest::from_fault(fault, RID.into())?;
            Ok((PageRequestRecord::Request(request).encode()?, loss))
        },
        |bytes| match PageRequestRecord::decode(bytes) {
            PageRequestRecord::Request(request) => asked(Some(request)),
            PageRequestRecord::StopMarker(_) => asked(None),
        },
    );
    let virtio = faults(
        "virtio",
        |fault| {
            let (report, loss) = Fault::from_fault(fault, RID.into());
            Ok((report.encode(), loss))
        },
        |bytes| Fault::decode(bytes).to_fault(7, 9).expect("it has an address"),
    );
    [vtd, stall, priq, amd, riscv, virtio].into_iter().flatten().collect()
}

/// Answers to the bytes of a command, and the bytes to answers.
fn answers<const N: usize>(
    name: &str,
    to_bytes: impl Fn(&PageResponse) -> Result<[u8; N], HwError> + 'static,
    to_answer: impl Fn(&[u8; N]) -> Option<(PageResponse, Loss)> + 'static,
) -> [Contender; 2] {
    let answers = made(answer);
    let to_bytes = move |answer: &PageResponse| to_bytes(answer).expect("its code is one");
    let bytes = answers.each_ref().map(&to_bytes);
    [
        contender(format!("from answer  {name}"), answers, to_bytes),
        contender(format!("to answer  {name}"), bytes, to_answer),
    ]
}

fn responses() -> Vec<Contender> {
    const COOKIE: u32 = 9;
    let prg = |answer: &PageResponse| PrgResponse::from_response(answer, 0x100, Some(5), 3);
    let vtd = answers(
        "VT-d",
        move |answer| InvalidationDescriptor::PageGroupResponse(prg(answer)?).encode(),
        |bytes| match InvalidationDescriptor::decode(bytes) {
            InvalidationDescriptor::PageGroupResponse(answer) => Some(answer.to_response(COOKIE)),
            InvalidationDescriptor::Unknown(_) => None,
        },
    );
    let smmuv3 = |bytes: &[u8; 16]| match smmuv3::Command::decode(bytes) {
        smmuv3::Command::PriResp(response) => Some(response.to_response(COOKIE)),
        smmuv3::Command::Resume(resume) => Some(resume.to_response(COOKIE)),
        smmuv3::Command::Unknown(_) => None,
    };
    let pri_resp =
        answers("SMMUv3 response", move |answer| smmuv3::Command::PriResp(prg(answer)?).encode(), smmuv3);
    let resume = answers(
        "SMMUv3 resume",
        |answer| smmuv3::Command::Resume(CmdResume::from_response(answer, 0x100, 3)?).encode(),
        smmuv3,
    );
    let amd = answers(
        "AMD",
        move |answer| amd::Command::CompletePprRequest(prg(answer)?).encode(),
        |bytes| match amd::Command::decode(bytes) {
            amd::Command::CompletePprRequest(response) => Some(response.to_response(COOKIE)),
            amd::Command::Unknown(_) => None,
        },
    );
    let riscv = answers(
        "RISC-V",
        move |answer| riscv::Command::AtsPrgr(AtsPrgr { response: prg(answer)?, segment: None }).encode(),
        |bytes| match riscv::Command::decode(bytes) {
            riscv::Command::AtsPrgr(prgr) => Some(prgr.response.to_response(COOKIE)),
            riscv::Command::Unknown(_) => None,
        },
    );
    [vtd, pri_resp, resume, amd, riscv].into_iter().flatten().collect()
}

fn table(contenders: &[Contender]) {
    let mut times = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for (contender, times) in contenders.iter().zip(&mut times) {
            times.push((contender.run)(PASSES).as_nanos() as f64 / (PASSES * RECORDS) as f64);
        }
    }
    println!(
        "\nns a record, median of {ROUNDS} interleaved rounds (least to most), and million records a second"
    );
    for (contender, times) in contenders.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
        println!("  {:34} {median:6.2}  ({least:.2} to {most:.2})  {:5.0}", contender.name, 1e3 / median);
    }
}

fn main() {
    let contenders: Vec<_> = [coders(), conversions(), responses()].into_iter().flatten().collect();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    let mut group = criterion.benchmark_group("hardware records");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for contender in &contenders {
        group.bench_function(contender.name.as_str(), |bencher| {
            bencher.iter_custom(|count| (contender.run)(usize::try_from(count).expect("64 bits")));
        });
    }
    group.finish();
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        table(&contenders);
    }
}
