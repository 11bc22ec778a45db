//! Calls from one process to another over a socket: the name of a method, its arguments, and what it returns.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use recordfd::event::{Received, ReceiverCounters};
use recordfd::fault::{RespondError, ResponseCode};
use recordfd::uapi::{AcpiNotify, AcpiOst, PageResponse, PgFault, Record, Sequence};
use recordfd::{TryRecvError, TrySendError};

/// One end of the socket.
pub struct Line(pub UnixStream);

impl Line {
    /// Calls the method `name` of what is at the other end; waits for what it returns.
    pub fn call<T: Wire>(&self, name: &str, arguments: impl Wire) -> T {
        self.send((name.to_owned(), arguments));
        let answer = self.receive();
        T::take(&mut answer.expect("the process at the other end is gone").as_slice())
    }

    /// The next call from the other end: a name and arguments. `None` at its end.
    pub fn next_call(&self) -> Option<(String, Vec<u8>)> {
        let call = self.receive()?;
        let mut bytes = call.as_slice();
        Some((String::take(&mut bytes), bytes.to_vec()))
    }

    pub fn send(&self, what: impl Wire) {
        let mut bytes = vec![0; 4];
        what.put(&mut bytes);
        let length = bytes.len() as u32 - 4;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        (&self.0).write_all(&bytes).unwrap();
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        (&self.0).read_exact(&mut length).ok()?;
        let mut bytes = vec![0; u32::from_ne_bytes(length) as usize];
        (&self.0).read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// What can be an argument or a return value.
pub trait Wire: Sized {
    fn put(&self, bytes: &mut Vec<u8>);
    fn take(bytes: &mut &[u8]) -> Self;
}

macro_rules! numbers {
    ($($number:ty)*) => { $(impl Wire for $number {
        fn put(&self, bytes: &mut Vec<u8>) {
            bytes.extend(self.to_ne_bytes());
        }
        fn take(bytes: &mut &[u8]) -> Self {
            let (number, rest) = bytes.split_first_chunk().unwrap();
            *bytes = rest;
            Self::from_ne_bytes(*number)
        }
    })* };
}
numbers! { u8 u32 u64 usize }

macro_rules! records {
    ($($record:ty)*) => { $(impl Wire for $record {
        fn put(&self, bytes: &mut Vec<u8>) {
            let begin = bytes.len();
            bytes.resize(begin + Self::SIZE, 0);
            self.encode(&mut bytes[begin..]);
        }
        fn take(bytes: &mut &[u8]) -> Self {
            let (record, rest) = bytes.split_at(Self::SIZE);
            *bytes = rest;
            Self::decode(record).unwrap()
        }
    })* };
}
records! { AcpiNotify AcpiOst PgFault PageResponse }

/// Goes as another type: what it is there, and what comes of that.
macro_rules! as_another {
    ($($this:ty as $other:ty: $to:expr, $from:expr;)*) => { $(impl Wire for $this {
        fn put(&self, bytes: &mut Vec<u8>) {
            let to: fn(&$this) -> $other = $to;
            to(self).put(bytes);
        }
        fn take(bytes: &mut &[u8]) -> Self {
            let from: fn($other) -> $this = $from;
            from(Wire::take(bytes))
        }
    })* };
}
as_another! {
    bool as u8: |this| u8::from(*this), |other| other == 1;
    String as Vec<u8>: |this| this.clone().into_bytes(), |other| String::from_utf8(other).unwrap();
    Duration as (u64, u32):
        |this| (this.as_secs(), this.subsec_nanos()), |(secs, nanos)| Duration::new(secs, nanos);
    Received<AcpiNotify> as (u32, Option<(u32, AcpiNotify)>):
        |this| (this.lost(), match this {
            Received::Record { sequence, record, .. } => Some((sequence.get(), *record)),
            Received::Lost { .. } => None,
        }),
        |(lost, record)| match record {
            Some((sequence, record)) => {
                Received::Record { lost, sequence: Sequence::wrapping(sequence), record }
            }
            None => Received::Lost { count: lost },
        };
    ReceiverCounters as Vec<u64>:
        |this| {
            let Self { received, unknown, dropped, replies, wake_ups, busy_polls, sleeps, high_water } = *this;
            vec![received, unknown, dropped, replies, wake_ups, busy_polls, sleeps, high_water]
        },
        |other| {
            let [received, unknown, dropped, replies, wake_ups, busy_polls, sleeps, high_water] = other[..] else {
                panic!("{other:?}")
            };
            ReceiverCounters { received, unknown, dropped, replies, wake_ups, busy_polls, sleeps, high_water }
        };
    ResponseCode as bool: |this| *this == ResponseCode::Success, |other| match other {
        true => ResponseCode::Success,
        false => ResponseCode::Invalid,
    };
    // The errors of an honest peer; another one ends the test with its text.
    TryRecvError as Result<Option<Option<usize>>, String>:
        |this| match this {
            TryRecvError::Empty => Ok(None),
            TryRecvError::Closed => Ok(Some(None)),
            TryRecvError::BufferTooSmall { needed } => Ok(Some(Some(*needed))),
            error => Err(format!("{error:?}")),
        },
        |other| match other.unwrap() {
            None => TryRecvError::Empty,
            Some(None) => TryRecvError::Closed,
            Some(Some(needed)) => TryRecvError::BufferTooSmall { needed },
        };
    TrySendError<()> as Result<bool, String>:
        |this| match this {
            TrySendError::Full(()) => Ok(false),
            TrySendError::Closed(()) => Ok(true),
            error => Err(format!("{error:?}")),
        },
        |other| if other.unwrap() { TrySendError::Closed(()) } else { TrySendError::Full(()) };
    RespondError<()> as Result<u8, String>:
        |this| match this {
            RespondError::WouldBlock(()) => Ok(0),
            RespondError::StaleCookie => Ok(1),
            RespondError::Code => Ok(2),
            RespondError::Closed => Ok(3),
            error => Err(format!("{error:?}")),
        },
        |other| match other.unwrap() {
            0 => RespondError::WouldBlock(()),
            1 => RespondError::StaleCookie,
            2 => RespondError::Code,
            _ => RespondError::Closed,
        };
}

impl Wire for () {
    fn put(&self, _bytes: &mut Vec<u8>) {}
    fn take(_bytes: &mut &[u8]) -> Self {}
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.0.put(bytes);
        self.1.put(bytes);
    }
    fn take(bytes: &mut &[u8]) -> Self {
        let first = A::take(bytes);
        (first, B::take(bytes))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.len().put(bytes);
        self.iter().for_each(|item| item.put(bytes));
    }
    fn take(bytes: &mut &[u8]) -> Self {
        let length = usize::take(bytes);
        (0..length).map(|_| T::take(bytes)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.is_some().put(bytes);
        self.iter().for_each(|item| item.put(bytes));
    }
    fn take(bytes: &mut &[u8]) -> Self {
        bool::take(bytes).then(|| T::take(bytes))
    }
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.is_ok().put(bytes);
        match self {
            Ok(value) => value.put(bytes),
            Err(error) => error.put(bytes),
        }
    }
    fn take(bytes: &mut &[u8]) -> Self {
        if bool::take(bytes) { Ok(T::take(bytes)) } else { Err(E::take(bytes)) }
    }
}
