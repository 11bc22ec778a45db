//! Bad lines, wrong use, broken pipes, and the help.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{TOOL, recordfd, run, vector};

#[test]
fn bad_line_is_told_of_and_the_rest_goes_on() {
    let good = vector("iommufd.page_response", "success").hex;
    let spaced = format!("0x{} {}", &good[..6], &good[6..]);
    let long = "0".repeat(70_000);
    let input = format!("{good}\n\n# words\nxyz\n123\n{spaced}\n0102\n{long}\n{good}");
    let ran = recordfd("decode --format iommufd.page_response", input);
    let lines = r#"{"cookie":17,"code":0}"#;
    assert_eq!((ran.status, ran.lines()), (1, vec![lines; 3]));
    assert_eq!(
        ran.stderr,
        "recordfd: line 4: 'x' is no hex digit\n\
         recordfd: line 5: ends in the middle of a byte\n\
         recordfd: line 7: 2 bytes where the record has 8\n\
         recordfd: line 8: has more than 65536 bytes\n"
    );
    let mut bytes = good.clone().into_bytes();
    bytes.extend(b"\n\xff\xff\n");
    let ran = recordfd("decode --format iommufd.page_response", bytes);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, "recordfd: line 2: is no text\n"));
}

#[test]
fn refused_record_is_a_bad_line() {
    let ran = recordfd("decode --format acpi.ost", "000000000000000000000000ffffffff");
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr, "recordfd: line 1: reserved field reserved is not zero\n");
}

#[test]
fn bytes_that_end_in_the_middle_of_a_record_are_told_of() {
    let ran = recordfd("decode --raw --format iommufd.page_response", [0; 20]);
    assert_eq!((ran.status, ran.lines().len()), (1, 2));
    assert_eq!(ran.stderr, "recordfd: record 3: 4 bytes where the record has 8\n");
    recordfd("decode --raw --format iommufd.page_response", "").quiet_lines();
}

#[test]
fn bad_json_is_a_bad_line() {
    let ran = recordfd("encode --format iommufd.page_response", "{\n{}\n{\"cookie\":1}{}\n");
    assert_eq!((ran.status, ran.lines()), (1, vec!["0000000000000000"]));
    let told: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("recordfd: line 1: is no JSON: "), "{told:?}");
    assert!(told[1].starts_with("recordfd: line 3: is no JSON: "), "{told:?}");
}

#[test]
fn wrong_use_has_a_status_of_its_own() {
    for words in [
        "",
        "decide",
        "decode",
        "decode --format",
        "decode --format iommufd.pagefault",
        "decode --format acpi.ost --raw --raw=1",
        "encode --format acpi",
        "convert --from acpi.notify --to amd.ppr",
        "convert --from amd.ppr",
        "convert --from amd.ppr --to amd.complete_ppr",
        "convert --from amd.complete_ppr --to amd.ppr",
        "convert --from amd.ppr --to vtd.page_req_dsc --rid 7",
        "convert --from amd.ppr --to vtd.page_req_dsc --rid 7=x",
        "convert --from amd.ppr --to vtd.page_req_dsc --policy maybe",
        "convert --from amd.ppr --to vtd.page_req_dsc --prgi 65536",
        "convert --from amd.complete_ppr --to smmuv3.cmd_pri_resp --rid 7=8",
        "exec --format acpi.notify",
        "exec --format acpi.ost -- true",
        "exec --format acpi.notify --depth 0 -- true",
        "exec --format acpi.notify --respond-timeout 0 -- true",
        "exec --format acpi.notify --from /nonexistent -- true",
        "watch --format acpi.notify",
        "watch --fd 3 --format viommu.arm_smmuv3 --respond success",
        "watch --fd -1 --format acpi.notify",
        "watch --fd 3 --format acpi.notify --count 0",
    ] {
        let ran = recordfd(words, "");
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{words}");
        assert!(!ran.stderr.is_empty(), "{words}");
    }
}

#[test]
fn unknown_format_is_answered_with_those_that_are_known() {
    let ran = recordfd("decode --format vtd.page_req", "");
    for part in ["'vtd.page_req'", "iommufd.pgfault", "mixed", "virtio_iommu.fault", "a similar value exists"]
    {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = recordfd("exec --format amd.ppr -- true", "");
    assert!(ran.stderr.contains("pci.error") && !ran.stderr.contains("riscv"), "{}", ran.stderr);
    let ran = recordfd("convert --from amd.ppr --to amd.complete_ppr", "");
    assert!(ran.stderr.contains("amd.ppr is a request, and amd.complete_ppr an answer"), "{}", ran.stderr);
}

#[test]
fn broken_pipe_is_quiet() {
    for words in [
        "formats",
        "decode --raw --format iommufd.page_response < /dev/zero",
        "decode --raw --pretty --format smmuv3.event < /dev/zero",
    ] {
        let began = Instant::now();
        let script = format!("set -o pipefail; {TOOL} {words} | head -1; echo ${{PIPESTATUS[0]}}");
        let ran = run(Command::new("bash").args(["-c", &script]), b"");
        assert_eq!((ran.lines().len(), ran.lines()[1], ran.stderr.as_str()), (2, "0", ""), "{words}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn each_record_is_printed_as_it_comes() {
    let mut command = Command::new(TOOL);
    command
        .args(["decode", "--format", "iommufd.page_response"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = BufReader::new(stdout).lines();
    for name in ["success", "invalid", "success"] {
        writeln!(stdin, "{}", vector("iommufd.page_response", name).hex).unwrap();
        let line = lines.next().unwrap().unwrap();
        assert!(line.ends_with(if name == "success" { "\"code\":0}" } else { "\"code\":1}" }), "{line}");
    }
    drop(stdin);
    assert!(lines.next().is_none() && child.wait().unwrap().success());
}

#[test]
fn progress_is_told_on_a_terminal_only() {
    let script = "
import os, pty, subprocess, sys
near, far = pty.openpty()
with open('/dev/zero') as zero, open('/dev/null', 'w') as null:
    words = [sys.argv[1], 'decode', '--raw', '--format', 'iommufd.page_response']
    tool = subprocess.Popen(words, stdin=zero, stdout=null, stderr=far)
    told = os.read(near, 100).decode()
    tool.kill()
    tool.wait()
    assert told.startswith('\\r\\x1b[Krecordfd: ') and told.endswith(' records'), told
    try:
        subprocess.run(words, stdin=zero, stdout=null, stderr=subprocess.PIPE, timeout=1.5)
    except subprocess.TimeoutExpired as expired:
        print(expired.stderr)
";
    let ran = run(Command::new("python3").args(["-c", script, TOOL]), b"");
    assert_eq!(ran.quiet_lines(), ["None"]);
}

#[test]
fn every_command_has_help_with_examples() {
    let ran = recordfd("--help", "");
    for command in ["formats", "decode", "encode", "convert", "exec", "watch"] {
        assert!(ran.quiet_lines().iter().any(|line| line.trim_start().starts_with(command)), "{command}");
        let help = recordfd(&format!("{command} --help"), "");
        let examples = help.stdout.split_once("Examples:\n").expect(command).1;
        assert!(examples.contains(&format!("recordfd {command}")), "{command}");
        assert_eq!((help.status, help.stderr.as_str()), (0, ""));
    }
    assert!(recordfd("--version", "").stdout.starts_with("recordfd "));
}
