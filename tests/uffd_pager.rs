//! The example that serves real page faults, as processes of their own.

mod common;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The exit status where userfaultfd is not to be had.
const SKIPPED: i32 = 77;

/// What the last line of output counts.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    served: u32,
    checked: u32,
    refused: u32,
    wrong: u32,
    hung_up: u32,
    unreported: u32,
    amiss: u32,
}

/// Runs the example.
fn run(arguments: &[&str]) -> Output {
    Command::new(common::example("uffd_pager")).args(arguments).output().unwrap()
}

/// Runs the example, whose exit status must be `code`; nothing where userfaultfd is not to be had.
fn serve(arguments: &[&str], code: i32) -> Option<(Summary, Output)> {
    let output = run(arguments);
    if output.status.code() == Some(SKIPPED) {
        eprintln!("skipped: {}", text(&output.stderr));
        return None;
    }
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let printed = text(&output.stdout);
    let last = printed.lines().last().unwrap();
    let counts: Vec<u32> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [served, checked, refused, wrong, hung_up, unreported, amiss] = counts[..] else {
        panic!("not a summary: {last}")
    };
    let summary = Summary { served, checked, refused, wrong, hung_up, unreported, amiss };
    Some((summary, output))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_fault_is_served_and_every_page_right() {
    let Some((_, output)) = serve(&["--pages", "4096", "--refuse", "256"], 0) else { return };
    let printed = text(&output.stdout);
    let summary = "uffd_pager: 4096 faults served, 4080 pages checked, 16 refused, 0 wrong, \
                   0 hung up, 0 not reported, 0 completions amiss\n";
    assert!(printed.ends_with(summary), "{printed}");
    for line in ["external, over recordfd ", "in the process ", "external / in the process "] {
        assert!(printed.contains(line), "{printed}");
    }
    assert_eq!(text(&output.stderr), "", "nothing is drawn for nobody");
}

#[test]
fn more_threads_than_the_channel_has_room_for_all_get_their_pages() {
    let arguments = ["--pages", "1000", "--threads", "33", "--depth", "2", "--refuse", "0", "--seed", "7"];
    let Some((summary, _)) = serve(&arguments, 0) else { return };
    assert_eq!((summary.served, summary.checked, summary.refused), (1000, 1000, 0));
}

#[test]
fn every_page_may_be_refused() {
    let Some((summary, _)) = serve(&["--pages", "100", "--refuse", "1"], 0) else { return };
    assert_eq!((summary.served, summary.checked, summary.refused), (100, 0, 100));
}

#[test]
fn killed_pager_leaves_no_thread_waiting() {
    for after in ["0", "1000"] {
        let began = Instant::now();
        let arguments = ["--pages", "4096", "--refuse", "0", "--kill-pager-after", after];
        let Some((summary, output)) = serve(&arguments, 1) else { return };
        let Summary { served, checked, refused, wrong, hung_up, unreported, amiss } = summary;
        assert_eq!(served, checked, "an answer is a page");
        assert_eq!(refused, hung_up + unreported, "all others were told");
        assert_eq!((checked + refused, wrong, amiss), (4096, 0, 0));
        assert!(unreported > 0 && served >= after.parse().unwrap(), "{served} served, {unreported} were not");
        let complained = text(&output.stderr);
        assert!(complained.starts_with("uffd_pager: the pager ended with signal: 9"), "{complained}");
        assert_eq!(complained.lines().count(), 1, "{complained}");
        // Waiting for a deadline instead of the hang-up takes longer.
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    }
}

#[test]
fn wrong_usage_is_told() {
    for arguments in [&["--nonsense"][..], &["--pages", "0"], &["--threads", "0"], &["--depth", "1"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let help = run(&["--help"]);
    let printed = text(&help.stdout);
    assert!(printed.contains("77 userfaultfd(2) is not to be had here") && !printed.contains("Commands:"));
}

#[test]
fn pager_without_a_vmm_says_so() {
    let output = run(&["pager", "--pages", "1", "--refuse", "0"]);
    let complained = text(&output.stderr);
    assert!(complained.starts_with("uffd_pager: pager: "), "{complained}");
    assert_eq!((complained.lines().count(), output.status.code()), (1, Some(1)));
}
