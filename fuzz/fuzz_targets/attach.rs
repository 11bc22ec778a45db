//! Offers near those that can be, with real memory as large as they say: what is attached keeps the rules and works,
//! and what is refused is left as it was.

#![no_main]

#[path = "../../tests/common/offer_rules.rs"]
mod offer_rules;
#[path = "../../tests/common/ring_peer.rs"]
mod ring_peer;

use std::os::fd::{AsRawFd, OwnedFd};

use libfuzzer_sys::fuzz_target;
use offer_rules::{is_good, rings};
use recordfd::event::{Receiver, Sender};
use recordfd::fd::recv_descriptor;
use recordfd::uapi::{
    AcpiNotify, AcpiOst, ChannelInfo, Event, FixedText, Format, Offer, OfferFlags, Record, Sequence,
    Transport,
};
use recordfd::{Rejected, TryRecvError, UnattachedEnd};
use ring_peer::{RingPeer, good_offer, sealed_memory, send_with};
use zerocopy::IntoBytes;

/// The largest memory that is made; an Offer of more comes with memory that is too small.
const LARGEST: u64 = 128 << 20;

fn notification(data: u32) -> AcpiNotify {
    let (bus_id, device_class) = (FixedText::EMPTY, FixedText::EMPTY);
    AcpiNotify { dev_id: 1, value: 0x80, data, cookie: data, bus_id, device_class }
}

/// Changes one field, as the seeds say.
fn change(offer: &mut Offer, field: u8, how: u8, value: u64) {
    let ends = rings(offer).map(|(_, end)| end);
    let old = match field % 11 {
        0 => u64::from(offer.abi_min),
        1 => u64::from(offer.abi_max),
        2 => u64::from(offer.format.0),
        3 => u64::from(offer.flags.bits()),
        4 => u64::from(offer.depth),
        5 => u64::from(offer.record_size),
        6 => u64::from(offer.reply_depth),
        7 => u64::from(offer.reply_size),
        8 => offer.records_offset,
        9 => offer.replies_offset,
        _ => offer.map_size,
    };
    let new = match how % 5 {
        0 => value,
        // Lines for what is in bytes, ones for what is counted.
        1 => old.wrapping_add(value.wrapping_mul(if field % 11 < 8 { 1 } else { 128 })),
        2 => old >> (value % 64),
        3 => 1 << (value % 64),
        // So far behind the rings.
        _ => (ends[0].max(ends[1]) as u64).wrapping_add(value),
    };
    match field % 11 {
        0 => offer.abi_min = new as u16,
        1 => offer.abi_max = new as u16,
        2 => offer.format = Format(new as u32),
        3 => offer.flags = OfferFlags::from_bits_retain(new as u32 & 1),
        4 => offer.depth = new as u32,
        5 => offer.record_size = new as u32,
        6 => offer.reply_depth = new as u32,
        7 => offer.reply_size = new as u32,
        8 => offer.records_offset = new,
        9 => offer.replies_offset = new,
        _ => offer.map_size = new,
    }
}

enum End {
    Receiver(Box<Receiver<AcpiNotify>>),
    Sender(Sender<AcpiNotify>),
}

impl End {
    fn attach(socket: OwnedFd, produces: bool) -> Result<Self, Rejected<UnattachedEnd>> {
        let info = ChannelInfo::new(Format::ACPI_NOTIFY_V1, Transport::SHARED, 1);
        let end = UnattachedEnd::from_parts(socket, info).max_depth(1 << 20);
        if produces {
            Sender::attach(end).map(Self::Sender)
        } else {
            Receiver::attach(end).map(|rx| Self::Receiver(Box::new(rx)))
        }
    }

    /// Fills both rings of the channel once, and empties them.
    fn check(&mut self, peer: &RingPeer) {
        peer.arm();
        let depths = [peer.produced.depth, peer.consumed.depth].map(|depth| depth.min(40));
        let bytes = |record: &dyn Fn(&mut [u8]), size: usize| {
            let mut bytes = vec![0; size];
            record(&mut bytes);
            bytes
        };
        for number in 0..depths[0] {
            peer.publish(&match self {
                Self::Receiver(_) => {
                    let event = Event::new(Sequence::wrapping(number), notification(number));
                    bytes(&|bytes| event.encode(bytes), Event::<AcpiNotify>::SIZE)
                }
                Self::Sender(_) => bytes(&|bytes| AcpiOst::new(number, 1, 2).encode(bytes), AcpiOst::SIZE),
            });
        }
        for number in 0..depths[1] {
            match self {
                Self::Receiver(rx) => rx.reply(AcpiOst::new(number, 1, 2)).unwrap(),
                Self::Sender(tx) => tx.try_send(notification(number)).unwrap(),
            }
        }
        for number in 0..depths[0] {
            match self {
                Self::Receiver(rx) => {
                    assert_eq!(rx.try_recv().unwrap().record(), Some(&notification(number)))
                }
                Self::Sender(tx) => assert_eq!(tx.try_recv_reply().unwrap(), AcpiOst::new(number, 1, 2)),
            }
        }
        let nothing = match self {
            Self::Receiver(rx) => rx.try_recv().map(drop),
            Self::Sender(tx) => tx.try_recv_reply().map(drop),
        };
        assert!(matches!(nothing, Err(TryRecvError::Empty)), "{nothing:?}");
        for number in 0..depths[1] {
            let taken = peer.take_record().unwrap();
            match self {
                Self::Receiver(_) => assert_eq!(AcpiOst::decode(&taken), Ok(AcpiOst::new(number, 1, 2))),
                Self::Sender(_) => {
                    assert_eq!(
                        Event::decode(&taken),
                        Ok(Event::new(Sequence::wrapping(number), notification(number)))
                    );
                }
            }
        }
        if let Self::Sender(tx) = self {
            assert!(tx.is_drained().unwrap());
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(([role, depth, reply_depth], changes)) = input.split_first_chunk() else { return };
    let produces = role % 2 == 1;
    let good = good_offer(Format::ACPI_NOTIFY_V1, produces, 1 << (depth % 21), 1 << (reply_depth % 21));
    let mut offer = good;
    for change_of in changes.chunks_exact(10).take(6) {
        let value = u64::from_le_bytes(change_of[2..].try_into().unwrap());
        change(&mut offer, change_of[0], change_of[1], value);
    }
    let size = if offer.map_size <= LARGEST { offer.map_size } else { good.map_size };
    let (peer, end) = RingPeer::make_with(&offer, sealed_memory(size));
    let expected = is_good(&offer, size) && offer.flags.contains(OfferFlags::PRODUCER) == produces;
    match End::attach(end.try_clone().unwrap(), produces) {
        Ok(mut attached) => {
            assert!(expected, "{offer:?} was taken");
            let [records, replies] = rings(&offer);
            let last = records.1.max(replies.1);
            assert!(records.1 <= replies.0 || replies.1 <= records.0);
            assert!(last <= u128::from(offer.map_size));
            assert!(u128::from(offer.map_size) <= last.next_multiple_of(4096) + 4096);
            drop(end);
            attached.check(&peer);
        }
        Err(error) => {
            assert!(!expected, "{offer:?}: {error:?}");
            // What was refused is left where it was, and a good offer can be attached after it.
            let mut bytes = [0; 512];
            let (length, _memory) = recv_descriptor(&end, &mut bytes).unwrap();
            assert_eq!(&bytes[..length], offer.as_bytes());
            let memory = sealed_memory(good.map_size);
            send_with(peer.socket(), good.as_bytes(), &[memory.as_raw_fd()]);
            assert!(End::attach(end, produces).is_ok(), "{good:?}");
        }
    }
});
