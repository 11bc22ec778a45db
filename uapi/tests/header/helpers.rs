//! The header's helpers, run by `c/helpers.c`, give what Rust gives.

use std::fmt::Write;

use recordfd_uapi::hw::Loss;
use recordfd_uapi::hw::pcie::{PrgResponse, ResponseCode};
use recordfd_uapi::hw::smmuv3::{CmdResume, Command, PriResp};
use recordfd_uapi::{
    AcpiNotify, Event, EventFlags, EventHeader, FixedText, Format, LinuxEvent, LinuxEvents, PageResponse,
    PageResponseCode, Payload, PgFaultFlags, Record, Sequence,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::compiler::{C11, VARIANTS, compile, run};

const HELPERS: &str = include_str!("../c/helpers.c");
const GOLDEN: &str = include_str!("../../../tests/data/golden.txt");

const EINVAL: i32 = -22;
const E2BIG: i32 = -7;

/// Commands for `helpers.c` and the answers that the contract in Rust gives.
#[derive(Default)]
struct Script {
    commands: String,
    expected: Vec<String>,
}

impl Script {
    fn expect(&mut self, command: impl AsRef<str>, answer: impl Into<String>) {
        writeln!(self.commands, "{}", command.as_ref()).unwrap();
        self.expected.push(answer.into());
    }

    fn check(&self, test: &str) {
        for (name, flags) in VARIANTS.iter() {
            let flags = [&C11, flags.as_slice()].concat();
            let program = compile(&format!("{test}-{name}"), "gcc", &flags, HELPERS).unwrap();
            let output = run(&program, &self.commands);
            let commands = self.commands.lines();
            assert_eq!(output.lines().count(), self.expected.len(), "{name}");
            for ((command, expected), found) in commands.zip(&self.expected).zip(output.lines()) {
                assert_eq!(found, expected, "{name}: {command}");
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn loss_arithmetic_is_that_of_sequence() {
    const MAX: u32 = 0x7fff_ffff;
    let mut script = Script::default();
    let near = [0, 1, 2, 3, 0x100, 0x3fff_ffff, 0x4000_0000, MAX - 2, MAX - 1, MAX];
    let mut random = 1_u32;
    let mut numbers = near.to_vec();
    for _ in 0..90 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        numbers.push(random >> 1);
    }
    for last in &numbers {
        for sequence in &numbers {
            let (last, sequence) = (Sequence::wrapping(*last), Sequence::wrapping(*sequence));
            let answer = format!("{:x} {:x}", sequence.lost_before(last), sequence.lost_through(last));
            script.expect(format!("loss {:x} {:x}", last.get(), sequence.get()), answer);
        }
    }
    script.check("loss");
}

#[test]
fn sizes_are_those_of_the_formats() {
    let mut script = Script::default();
    for format in Format::ALL.into_iter().chain([0, 1, 0x0001_0000, 0x0004_0002, u32::MAX].map(Format)) {
        let (record, reply) =
            format.layout().map_or((0, 0), |layout| (layout.record_size, layout.reply_size));
        script.expect(format!("sizes {:x}", format.0), format!("{record} {reply}"));
    }
    script.check("sizes");
}

#[test]
fn text_ends_at_nul_or_with_its_field() {
    let mut script = Script::default();
    for text in [&b""[..], b"a", b"battery", b"PNP0C0A:00\0junk", b"sixteen bytes ok"] {
        let mut padded = [0; 16];
        padded[..text.len()].copy_from_slice(text);
        let length = FixedText::from_padded(padded).as_bytes().len();
        script.expect(format!("text {}", hex(&padded)), length.to_string());
    }
    script.check("text");
}

/// What `helpers.c` prints for one record.
fn item(header: &EventHeader, payload: Option<&[u8]>) -> String {
    let payload = payload.map_or("none".to_owned(), hex);
    format!("{:x}/{:x}/{payload} ", header.flags.bits(), header.sequence)
}

/// The end of a walk that leaves `rest` bytes: an error that stays, or the end.
fn walk_end(rest: usize) -> String {
    let result = if rest == 0 { 0 } else { EINVAL };
    format!("{result} {result} {rest}")
}

pub(crate) fn notification(sequence: u32) -> Event<AcpiNotify> {
    let notify = AcpiNotify {
        dev_id: 3,
        value: 0x80 + sequence,
        data: 1,
        cookie: 0,
        bus_id: FixedText::new("PNP0C0A:00").unwrap(),
        device_class: FixedText::new("battery").unwrap(),
    };
    Event::new(Sequence::wrapping(sequence), notify)
}

pub(crate) fn encoded(records: &[Event<AcpiNotify>]) -> Vec<u8> {
    let mut bytes = vec![0; records.len() * 64];
    for (record, out) in records.iter().zip(bytes.chunks_exact_mut(64)) {
        record.encode(out);
    }
    bytes
}

#[test]
fn iterator_walks_our_records_and_stops_at_a_cut() {
    let mut script = Script::default();
    let records = [notification(0), notification(1), Event::lost(Sequence::wrapping(9))];
    let bytes = encoded(&records);
    for length in 0..=bytes.len() {
        let mut answer = String::new();
        for record in bytes[..length].chunks_exact(64) {
            let event = Event::<AcpiNotify>::decode(record).unwrap();
            answer += &item(&event.header, Some(event.payload.as_bytes()));
        }
        answer += &walk_end(length % 64);
        for shift in [0, 1] {
            script.expect(format!("iter 64 0 {shift} {}", hex(&bytes[..length])), &answer);
        }
    }
    script.check("iter-ours");
}

#[test]
fn iterator_refuses_what_rust_refuses() {
    let mut script = Script::default();
    for sequence in [0x7fff_ffff, 0x8000_0000, u32::MAX] {
        for flags in [0, 1] {
            let mut bytes = vec![0; 24];
            bytes[..4].copy_from_slice(&u32::to_ne_bytes(flags));
            bytes[4..8].copy_from_slice(&sequence.to_ne_bytes());
            let header = EventHeader { flags: EventFlags::from_bits_retain(flags), sequence };
            let answer = match header.check() {
                Ok(()) => item(&header, Some(&[0; 16])) + &walk_end(0),
                Err(error) => format!("{0} {0} 24", -error.errno()),
            };
            script.expect(format!("iter 24 0 0 {}", hex(&bytes)), answer);
        }
    }
    // A record without room for its header would never come to an end.
    for size in [0, 7] {
        script.expect(format!("iter {size} 0 0 {}", "00".repeat(24)), walk_end(24));
    }
    script.expect(format!("iter 8 0 0 {}", "00".repeat(8)), format!("0/0/ {}", walk_end(0)));
    script.check("iter-refused");
}

/// The payload that the selftest of Linux' iommufd sends.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
struct Selftest(u32);

impl Payload for Selftest {
    const FLAGS: EventFlags = EventFlags::all();
}

#[test]
fn iterator_knows_the_bare_lost_header_of_linux() {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix("HEX|vev.overflow.all|44|")).unwrap();
    let bytes: Vec<u8> =
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect();
    assert_eq!(bytes.len(), 44);
    let mut script = Script::default();
    for length in 0..=bytes.len() {
        let (mut answer, mut rest) = (String::new(), length);
        for event in LinuxEvents::<Selftest>::new(&bytes[..length]).map_while(Result::ok) {
            match event {
                LinuxEvent::Event(event) => {
                    answer += &item(&event.header, Some(event.payload.as_bytes()));
                    rest -= 12;
                }
                LinuxEvent::Lost(header) => {
                    answer += &item(&header, None);
                    rest -= 8;
                }
            }
        }
        for shift in [0, 3] {
            script.expect(
                format!("iter 12 1 {shift} {}", hex(&bytes[..length])),
                format!("{answer}{}", walk_end(rest)),
            );
        }
    }
    assert!(script.expected.last().unwrap().ends_with("1/f/none 0 0 0"));
    // Our own descriptors send no bare header: to their readers it is a cut-off record.
    let answer = script.expected.last().unwrap().replace("1/f/none 0 0 0", "-22 -22 8");
    script.expect(format!("iter 12 0 0 {line}"), answer);
    script.check("iter-linux");
}

#[test]
fn group_collector_keeps_groups_apart() {
    let last = PgFaultFlags::LAST_PAGE.bits();
    let mut script = Script::default();
    // Answers: result, pages held, complete, address of the last page held.
    script.expect("room 3", "0 0");
    script.expect("add 0 5 1000", "0 1 0 1000");
    script.expect("add 1 5 2000", "0 2 0 2000");
    script.expect("add 0 6 9000", format!("{EINVAL} 2 0 2000"));
    script.expect(format!("add {last} 0 9000"), format!("{EINVAL} 2 0 2000"));
    script.expect(format!("add {last} 5 3000"), "1 3 1 3000");
    script.expect("respond 0", "5 0");
    script.expect("add 0 0 9000", format!("{EINVAL} 3 1 3000"));
    script.expect("respond 1", "5 1");
    // The kernel reuses a cookie at once.
    script.expect(format!("add {last} 5 4000"), "1 1 1 4000");
    script.expect("add 0 ffffffff 5000", "0 1 0 5000");
    script.expect("respond 0", "ffffffff 0");
    script.expect("add 0 ffffffff 6000", "0 2 0 6000");
    script.expect("add 0 ffffffff 7000", "0 3 0 7000");
    script.expect(format!("add {last} ffffffff 8000"), format!("{E2BIG} 3 0 7000"));
    script.expect(format!("add {last} 8 8000"), format!("{EINVAL} 3 0 7000"));
    script.expect("respond 1", "ffffffff 1");
    script.expect("room 0", "0 0");
    script.expect(format!("add {last} 9 1000"), format!("{E2BIG} 0 0 0"));
    script.expect("respond 1", "9 1");
    script.expect("room 8", "0 0");
    script.expect("respond 1", "0 1");
    script.check("group");
}

#[test]
fn answers_of_hardware_are_those_of_rust() {
    let mut script = Script::default();
    for number in (0..=0x10).chain([0x100, 0x101, u32::MAX]) {
        let response = PageResponse { cookie: 1, code: PageResponseCode::new(number) };
        let pri = PrgResponse::from_response(&response, 0, None, 0).map(|response| response.code);
        let resp = pri.map_or(EINVAL, |code| PriResp::from_code(code).unwrap().get().into());
        // What the command's bytes say.
        let resume = CmdResume::from_response(&response, 0, 0)
            .map_or(EINVAL, |resume| (Command::Resume(resume).encode().unwrap()[1] >> 4).into());
        let pri = pri.map_or(EINVAL, |code| code.get().into());

        let answer = |code: ResponseCode| {
            let (answer, loss) = code.to_answer();
            format!("{}/{}", answer.get(), u8::from(loss == Loss::PRI_DISABLED))
        };
        // Codes that have no place in a byte are failures like those that have none in 4 bits.
        let narrow = u8::try_from(number).unwrap_or(u8::MAX);
        let from_pri = answer(ResponseCode::new(narrow));
        let from_resp = PriResp::new(narrow).code().map_or(format!("{EINVAL}/9"), answer);
        let mut command = [0; 16];
        (command[0], command[1]) = (0x44, (number as u8 & 3) << 4);
        let Command::Resume(resumed) = Command::decode(&command) else { panic!("{command:?}") };
        let from_resume = resumed.to_response(1).0.code.get();
        let answer = format!("{pri} {resp} {resume} {from_pri} {from_resp} {from_resume}");
        script.expect(format!("codes {number:x}"), answer);
    }
    script.check("codes");
}
