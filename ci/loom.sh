#!/usr/bin/env bash
# Model-checks the ring, the doorbell, both ends of a shared channel, the telling of losses, the exchange of answers and the router of page faults, then shows that the models can fail, each on an
# edited copy of the sources and for the reason it must.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-3}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"

models() { cargo test --quiet --release --lib -- "${1:-models::}"; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
models | tee "$scratch/log"
if ! grep -qE 'ok\. [1-9][0-9]* passed' "$scratch/log"; then
    echo "loom: no model has run" >&2
    exit 1
fi

# must_fail WHAT FILE SED REASON: runs the models on a copy with one edit, which must fail so. SED has one command on
# each line, and each of them must change something.
must_fail() {
    rm -rf "$scratch/tree" && mkdir "$scratch/tree"
    cp -r Cargo.toml Cargo.lock src uapi cli benches tests examples README.md "$scratch/tree"
    local command
    while read -r command; do
        cp "$scratch/tree/$2" "$scratch/before"
        sed -i "$command" "$scratch/tree/$2"
        if cmp -s "$scratch/before" "$scratch/tree/$2"; then
            echo "loom: the edit '$1' changes nothing by '$command'" >&2
            exit 1
        fi
    done <<<"$3"
    # Those of the router are its own alone.
    local filter=models::
    [[ $2 == src/fault/router* ]] && filter=router::models::
    if (cd "$scratch/tree" && models "$filter") >"$scratch/log" 2>&1; then
        echo "loom: the models pass $1" >&2
        exit 1
    fi
    if ! grep -qF "$4" "$scratch/log"; then
        tail -30 "$scratch/log"
        echo "loom: $1, the models do not say '$4'" >&2
        exit 1
    fi
    echo "loom: $1, as it must: $4"
}
CARGO_TARGET_DIR=$(realpath "$CARGO_TARGET_DIR")/edited
must_fail "without the producer's fence" src/doorbell.rs \
    '0,/fence(Ordering::SeqCst);/s///' "lost wake-up"
must_fail "without the consumer's fence" src/doorbell.rs \
    '/Pairs with the fence in `fence_ring`/{n;s/fence(Ordering::SeqCst);//}' "lost wake-up"
must_fail "without the count of owned tokens" src/doorbell.rs \
    's/while self.owned > kept \&\& tokens.take()/while tokens.take()/
     s/self.owned -= 1;//' \
    "lost wake-up"
must_fail "with the loss looked at after the queue" src/transport/local/models.rs \
    '/let loss = self.world.tail_loss.load(Acquire);/d
     s/} else if loss != 0/} else if let loss = self.world.tail_loss.load(Acquire) \&\& loss != 0/' \
    "told of a loss that was none"
must_fail "with a batch that goes on behind a loss" src/transport/local/models.rs \
    's/ \&\& tail_loss.is_none()//' "told of a loss that was none"
must_fail "without the waiter's fence" src/drain.rs \
    '/Pairs with the fence in `open`/{n;s/fence(Ordering::SeqCst);//}' "deadlock"
must_fail "with an answer that a withdrawal overlooks" src/answer/local.rs \
    's/_ if place.cookie != cookie => Withdrawn::Answered,/_ if place.cookie != cookie => Withdrawn::Unread,/' \
    "the responder was told otherwise"
must_fail "without the second look for answers" src/answer/local.rs \
    's/!state.answers.is_empty() || state.responder_gone$/false/' "lost wake-up"
must_fail "without the note of answers taken in" src/answer/local.rs \
    's/state.note_change(&self.exchange.changed);//' "deadlock"
must_fail "without the word of a notice" src/answer/local.rs \
    's/|| state.noticed //' "lost wake-up"
must_fail "with an unread request that a repeat leaves as it was" src/answer/local.rs \
    's/\*found = \*record;/let _ = found;/' "lost wake-up: a repeat"
must_fail "with the lock held while groups are copied" src/answer/local/reader.rs \
    's/^\( *\)for group in taken.chunk_by/\1let _held = lock(\&exchange.state);\n&/' "deadlock"
must_fail "with a record that is published before it is written" src/ring.rs \
    's/store(self.tail, Ordering::Release)/store(self.tail, Ordering::Relaxed)/' "not what was published"
must_fail "with a group that is published record by record" src/ring.rs \
    's/^\( *\)self.tail = self.tail.wrapping_add(count);/\1for _ in 1..count { self.publish(1); }\n\1self.tail = self.tail.wrapping_add(1);/' \
    "half a group"
must_fail "with slots that are taken for free too early" src/ring.rs \
    's/Ok(self.depth - still_unread)/Ok(self.depth - still_unread + u32::from(still_unread > 0))/' "not what was published"
must_fail "without the fence of a shared channel's producer" src/transport/shared/port.rs \
    '/fn fence_ring/,/^    }/s/ fence(Ordering::SeqCst);$//' "lost wake-up"
must_fail "without the fence of a shared channel's consumer" src/transport/shared/port.rs \
    '/fn fence_sleep/,/^    }/s/ fence(Ordering::SeqCst);$//' "lost wake-up"
must_fail "with the peer's end looked at after the ring" src/transport/shared.rs \
    's/if gone {/if self.port.is_peer_gone() {/' "closed before the last record"
must_fail "with the peer's end noted by a relaxed store" src/transport/gone.rs \
    's/store(1, Ordering::Release)/store(1, Ordering::Relaxed)/' "closed before the last record"
must_fail "with the peer's end seen by a relaxed load" src/transport/gone.rs \
    's/load(Ordering::Acquire) != 0/load(Ordering::Relaxed) != 0/' "closed before the last record"
must_fail "without the second look at a ring whose reader is gone" src/transport/gone.rs \
    's/if unread == Unread::Stays && is_empty().*{$/if false {/' "closed though everything was read"
must_fail "with the loss looked at after the ring" src/transport/shared.rs \
    's/if taken.count < most \&\& is_news/let loss = self.port.consumed.tail_loss().load(Ordering::Acquire);\n&/' \
    "told of a loss out of its place"
must_fail "with a token called stray before its claim was looked for" src/transport/shared.rs \
    '/either is none/{n;s/self.enter();//}' "an honest peer"
must_fail "without the fence of who waits for a drain" src/transport/shared/drain.rs \
    '/Pairs with the fence in `tell`/{n;s/fence(Ordering::SeqCst);//}' "the ring was read empty"
must_fail "without the fence of who tells of a drain" src/transport/shared/drain.rs \
    '/Pairs with the fence in `Drain::want`/{n;s/fence(Ordering::SeqCst);//}' "the ring was read empty"
must_fail "with this side's index noted after the record" src/transport/shared.rs \
    '/self.port.produced_tail.store/d
     s/^ *self.ring.publish(accepted.*/&\n self.port.produced_tail.store(self.ring.tail(), Ordering::Relaxed);/' \
    "the ring was read empty"
must_fail "with a look for stray tokens while another thread takes one out" src/transport/shared/drain.rs \
    '/fn peek/,/^    }/s/^ *let is_readable = port.peek();$//
     /fn peek/,/^    }/s/let mut state = lock/let is_readable = port.peek();\n&/' "an honest peer"
must_fail "without the wait of a detach for what others tell" src/fault/router/attach.rs \
    's/^        self.wait_settled(old);$//' "told behind the detach"
must_fail "with a group handed over behind the table's lock" src/fault/router.rs \
    '/let table = read(&self.table);/{N;s/.*= table.find(\(.*\)) else {/let Some(attachment) = read(\&self.table).find(\1).cloned() else {/}' \
    "told behind the detach"
must_fail "without the word that an attachment has settled" src/fault/router/tell.rs \
    's/self.settled.1.notify_all();//' "deadlock"
must_fail "with who waits for it looked for before it has" src/fault/router/tell.rs \
    's/let is_settled = /let waiting = *lock(\&self.settled.0);\n&/
     s/\*lock(&self.settled.0) > 0 {/waiting > 0 {/' "deadlock"
must_fail "without the count of groups in flight" src/fault/router.rs \
    's/attachment.in_flight.fetch_add(1, Ordering::Relaxed);//' "deadlock"
must_fail "with handles looked at from the first one on" src/fault/router.rs \
    's/for index in (0..count).rev() {/for index in 0..count {/' "a handle was overlooked"
