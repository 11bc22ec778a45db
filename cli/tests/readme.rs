//! The commands of the two READMEs do what they say, as they are printed, in the root of the repository.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Ran, TOOL, run};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Stands for cargo: it runs examples that are built already, and takes the tool for installed.
const CARGO: &str = r#"#!/bin/sh
case "$*" in
"run --release --example "*)
    if [ ! -x "$EXAMPLES/$4" ]; then
        echo "$EXAMPLES/$4 is not built: run cargo build --examples" >&2
        exit 1
    fi
    exec "$EXAMPLES/$4" ;;
"test --workspace --all-features" | "install --path cli") ;;
*)
    echo "a command of cargo that this test does not know: $*" >&2
    exit 1 ;;
esac
"#;

/// The lines of a document's blocks of shell commands, without comments.
fn commands(document: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
    let blocks = text.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```\n").next().unwrap());
    let lines = blocks.flat_map(str::lines).map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

fn in_root(command: &str) -> Ran {
    let bin = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("cargo"), CARGO).unwrap();
    fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    let tool = Path::new(TOOL).parent().unwrap();
    let path = format!("{}:{}:{}", bin.display(), tool.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).current_dir(ROOT).env("PATH", path).env("EXAMPLES", tool.join("examples"));
    run(&mut shell, b"")
}

#[test]
fn every_command_does_what_it_says() {
    for (document, least) in [("README.md", 7), ("cli/README.md", 9)] {
        let commands = commands(document);
        assert!(commands.len() >= least, "{document}: {commands:?}");
        for command in commands {
            if let Some(arguments) = command.split_once("cargo +nightly fuzz run ").map(|(_, words)| words) {
                let words: Vec<&str> = arguments.split(' ').collect();
                let [target, corpus, seeds] = words[..] else { panic!("{command}") };
                assert_eq!(corpus, format!("fuzz/corpus/{target}"));
                assert!(targets().contains(&target.to_owned()) && Path::new(ROOT).join(seeds).is_dir());
                continue;
            }
            if let Some(script) = command.split(' ').next().filter(|word| word.starts_with("ci/")) {
                let mode = fs::metadata(Path::new(ROOT).join(script)).unwrap().permissions().mode();
                assert_eq!(mode & 0o111, 0o111, "{command}");
                continue;
            }
            let ran = in_root(&command);
            assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{document}: {command}: {ran:?}");
            let is_silent = command.starts_with("cargo test") || command.starts_with("cargo install");
            assert_eq!(ran.stdout.is_empty(), is_silent, "{document}: {command}");
        }
    }
}

/// The names of the fuzz targets.
fn targets() -> Vec<String> {
    let manifest = fs::read_to_string(Path::new(ROOT).join("fuzz/Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]").skip(1);
    bins.map(|bin| bin.split('"').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn every_fuzz_target_is_on_the_front_page() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let named = readme.split("## Fuzzing").nth(1).unwrap();
    let missing: Vec<_> =
        targets().into_iter().filter(|name| !named.contains(&format!("| `{name}` |"))).collect();
    assert!(missing.is_empty() && targets().len() >= 8, "not in the table: {missing:?}");
}
