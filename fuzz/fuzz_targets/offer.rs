//! Any bytes as an offer: the extension rule is applied to the letter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recordfd_uapi::{Offer, OfferError};
use zerocopy::IntoBytes;

const EINVAL: i32 = 22;
const E2BIG: i32 = 7;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fuzz_target!(|bytes: &[u8]| {
    // The sizes fit when there is a whole first version, and as many bytes as the offer says.
    let fits = bytes.len() >= Offer::MIN_SIZE && word(bytes, 0) as usize == bytes.len();
    let unknown = bytes.iter().skip(Offer::MIN_SIZE).position(|byte| *byte != 0);
    match Offer::from_bytes(bytes) {
        Ok(offer) => {
            assert!(fits && unknown.is_none());
            assert_eq!(offer.size as usize, bytes.len());
            assert_eq!(offer.as_bytes(), &bytes[..Offer::MIN_SIZE]);
            assert!(offer.flags.bits() <= 1);
            assert_eq!(bytes[56..64], [0; 8]);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            match unknown {
                Some(at) if fits => {
                    assert_eq!(error, OfferError::UnknownTail { offset: Offer::MIN_SIZE + at });
                    assert_eq!(error.errno(), E2BIG);
                }
                _ => assert_eq!(error.errno(), EINVAL),
            }
            if let OfferError::TooShort { found, needed } = error {
                // One of the two numbers is the length that came, or the one the offer says it has.
                let said = if bytes.len() < Offer::MIN_SIZE { bytes.len() } else { word(bytes, 0) as usize };
                let shorter =
                    if said < Offer::MIN_SIZE { (said, Offer::MIN_SIZE) } else { (bytes.len(), said) };
                assert_eq!((found, needed), shorter);
                assert!(found < needed);
            }
            // What fits and has no tail can only be wrong in a reserved field.
            if fits && unknown.is_none() {
                assert!(matches!(error, OfferError::Reserved { .. }));
                assert!(word(bytes, 12) > 1 || bytes[56..64] != [0; 8]);
            }
        }
    }
});
