//! The tool as a process, and the recorded vectors.

// Each test takes what it needs.
#![allow(dead_code)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use recordfd::uapi::Record;
use serde_json::{Map, Value};

pub(crate) const TOOL: &str = env!("CARGO_BIN_EXE_recordfd");

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The lines that were printed, of a run that told nothing.
    pub(crate) fn quiet_lines(&self) -> Vec<&str> {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "{self:?}");
        self.lines()
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Each line as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        self.lines().into_iter().map(parse).collect()
    }
}

/// Runs the tool with these words, which have no spaces in them.
pub(crate) fn recordfd(words: &str, stdin: impl AsRef<[u8]>) -> Ran {
    run(Command::new(TOOL).args(words.split_whitespace()), stdin.as_ref())
}

pub(crate) fn run(command: &mut Command, stdin: &[u8]) -> Ran {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // One that has failed already reads nothing.
        scope.spawn(move || input.write_all(stdin));
        child.wait_with_output().unwrap()
    });
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        status: output.status.code().expect("an exit, not a signal"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn hex_of<R: Record>(record: &R) -> String {
    let mut bytes = vec![0; R::SIZE];
    record.encode(&mut bytes);
    hex(&bytes)
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A recorded record, with numbers as integers.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) format: String,
    pub(crate) name: String,
    pub(crate) hex: String,
    pub(crate) fields: Map<String, Value>,
    /// The page fault that it is.
    pub(crate) generic: Option<Value>,
}

impl Vector {
    /// Whether the library reads such a record, but never writes it.
    pub(crate) fn is_never_sent(&self) -> bool {
        self.name.starts_with("decode_only")
    }
}

pub(crate) fn vectors() -> Vec<Vector> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../../../tests/data/vectors.json")).unwrap();
    let vector = |vector: &Value| {
        let text = |name: &str| vector[name].as_str().unwrap().to_owned();
        let fields = vector["fields"].as_object().unwrap();
        Vector {
            format: text("format"),
            name: text("name"),
            hex: text("hex"),
            fields: fields.iter().map(|(name, value)| (name.clone(), integer(value))).collect(),
            generic: vector.get("generic").cloned(),
        }
    };
    all.iter().map(vector).collect()
}

/// The vectors have numbers above 9 as texts that begin with `0x`.
fn integer(value: &Value) -> Value {
    match value.as_str().and_then(|text| text.strip_prefix("0x")) {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap().into(),
        None => value.clone(),
    }
}

/// The record of this format and name.
pub(crate) fn vector(format: &str, name: &str) -> Vector {
    vectors().into_iter().find(|vector| vector.format == format && vector.name == name).unwrap()
}
