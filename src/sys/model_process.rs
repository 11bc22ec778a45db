//! In place of `process.rs` under loom, whose models do not fork.

/// The one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process;

impl Process {
    pub(crate) fn this() -> Self {
        Self
    }

    pub(crate) fn is_this(self) -> bool {
        true
    }

    pub(crate) fn is_surely_this(self) -> bool {
        true
    }
}
