//! The same ACPI notifications through an eventfd and through a recordfd channel: what each delivers.
//!
//! An eventfd adds up what is written to it. Values run together, 0 wakes nobody, and there is no room
//! for the device's name; so its users keep a list with a lock beside it and hope that the two agree.

use nix::sys::eventfd::{EfdFlags, EventFd};
use recordfd::event::{self, Received};
use recordfd::uapi::{AcpiNotify, FixedText, notify_value_name};
use recordfd::{Options, TryRecvError};

/// Notifications of one device that come before anybody reads.
const BURSTS: [(&str, &[u32]); 5] = [
    ("0x81 after 0x80", &[0x80, 0x81]),
    ("the same twice", &[0x80, 0x80]),
    ("one alone", &[0x81]),
    ("Bus Check", &[0x00]),
    ("Bus Check between others", &[0x81, 0x00, 0x03]),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let (tx, mut rx) = event::channel::<AcpiNotify>(&Options::new())?;
    let mut notify = AcpiNotify {
        dev_id: 0,
        value: 0,
        data: 0,
        cookie: 0,
        bus_id: FixedText::new("PNP0C0A:00")?,
        device_class: FixedText::new("battery")?,
    };
    let (mut sent, mut kept) = (0, 0);
    for (what, values) in BURSTS {
        let written: Vec<String> = values.iter().map(|value| format!("{value:#04x}")).collect();
        println!("{what}: {}", written.join(", "));
        for value in values {
            eventfd.write((*value).into())?;
            notify.value = *value;
            tx.try_send(notify)?;
        }
        sent += values.len();

        match eventfd.read() {
            Ok(sum) if values.len() == 1 && sum == u64::from(values[0]) => {
                kept += 1;
                println!("  eventfd   {sum:#04x}");
            }
            Ok(sum) => println!("  eventfd   {sum:#04x}, which nobody has sent"),
            Err(_) => println!("  eventfd   nothing: not even a wake-up"),
        }
        loop {
            match rx.try_recv() {
                Ok(Received::Record { record, .. }) => {
                    let (class, bus_id, value) = (record.device_class, record.bus_id, record.value);
                    let name = notify_value_name(class.as_bytes(), value).unwrap_or("?");
                    println!("  recordfd  {class} {bus_id} {value:#04x} {name}");
                }
                Ok(Received::Lost { count }) => println!("  recordfd  {count} lost"),
                Err(TryRecvError::Empty) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    let counters = rx.counters();
    println!(
        "of {sent} notifications the eventfd delivered {kept}, recordfd {} and lost {}",
        counters.received, counters.dropped
    );
    Ok(())
}
