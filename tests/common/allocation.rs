//! Proof that nothing is allocated. Apart from what all tests share, for it counts in their place.

use std::hint::black_box;

use allocation_counter::measure;

/// Runs `work` and fails if this thread allocates meanwhile.
pub(crate) fn without<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let info = measure(|| result = Some(work()));
    assert_eq!((info.count_total, info.count_current), (0, 0), "{what} allocates or frees");
    result.unwrap()
}

#[test]
fn counter_sees_an_allocation() {
    let info = measure(|| drop(black_box(Box::new(7))));
    assert_eq!((info.count_total, info.count_current), (1, 0));
}
