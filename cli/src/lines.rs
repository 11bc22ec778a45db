//! What comes in line by line, what goes out, and what is told of both on stderr.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::exit;
use std::time::{Duration, Instant};

/// The longest line that is taken, in bytes: more is no record.
const LONGEST: u64 = 1 << 16;

/// How often progress is told.
const EVERY: Duration = Duration::from_millis(500);

/// Why a command stops before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nobody reads the output any more.
    BrokenPipe,
    /// What is to be told on stderr.
    Failed(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Whether anything that came in was bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bad(pub(crate) bool);

impl Bad {
    /// Tells of a bad line, or of whatever `what` counts.
    pub(crate) fn tell(&mut self, what: &str, number: u64, error: &str) {
        self.0 = true;
        tell(&format!("{what} {number}: {error}"));
    }
}

/// An error and what it comes from.
pub(crate) fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_source(source)),
        None => error.to_string(),
    }
}

/// Removes the progress from a terminal's line.
const CLEAR: &str = "\r\x1b[K";

/// The text with each character that is not printable as `\uXXXX`, in UTF-16 code units.
///
/// Controls, C1 controls, bidirectional controls and invisible characters thus reach no terminal, whatever a device, a
/// file name or an argument contains. JSON stays the same JSON: there such characters occur within strings only.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let is_printable = match character {
            ' '..='~' => true,
            // The standard library's table of printable characters shows here only.
            _ => !character.is_ascii() && character.escape_debug().len() == 1,
        };
        if is_printable {
            shown.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                shown += &format!("\\u{unit:04x}");
            }
        }
    }
    shown
}

/// Writes `text` as one line, [`visible`]; `before` is the tool's own.
fn write_line(out: &mut dyn Write, before: &str, text: &str) -> io::Result<()> {
    // In one piece, for others write there, too.
    out.write_all(format!("{before}{}\n", visible(text)).as_bytes())?;
    out.flush()
}

/// Writes a line to stderr; a process that has closed it does not read it.
fn tell_line(text: &str) {
    let clear = if io::stderr().is_terminal() { CLEAR } else { "" };
    let _ = write_line(&mut io::stderr(), clear, text);
}

/// Tells something on stderr.
pub(crate) fn tell(message: &str) {
    tell_line(&format!("recordfd: {message}"));
}

/// Ends the process with what clap has to say: help on stdout, as it is, or an error on stderr.
pub(crate) fn leave(error: &clap::Error) -> ! {
    if error.use_stderr() {
        error.render().to_string().lines().for_each(tell_line);
        exit(error.exit_code());
    }
    error.exit()
}

/// Writes a line and flushes it.
pub(crate) fn print(line: &str) -> Result<(), Stop> {
    Ok(write_line(&mut io::stdout().lock(), "", line)?)
}

/// Tells how far a long feed has come, if stderr is a terminal and what is printed goes elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    told: Instant,
    is_wanted: bool,
    is_told: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let is_wanted = io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self { told: Instant::now(), is_wanted, is_told: false }
    }

    pub(crate) fn at(&mut self, count: u64) {
        if self.is_wanted && self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            self.is_told = true;
            // In one piece: see `write_line`.
            let _ = io::stderr().write_all(format!("{CLEAR}recordfd: {count} records").as_bytes());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_told {
            let _ = io::stderr().write_all(CLEAR.as_bytes());
        }
    }
}

/// Hands each line that says something to `take`, with its number from 1 on; empty ones, and those that begin
/// with `#`, do not. A line that is refused is told of.
pub(crate) fn each_line(
    input: &mut dyn BufRead,
    mut take: impl FnMut(&str, u64) -> Result<Result<(), String>, Stop>,
) -> Result<Bad, Stop> {
    let (mut bad, mut progress) = (Bad::default(), Progress::new());
    let mut line = Vec::new();
    for number in 1.. {
        progress.at(number - 1);
        line.clear();
        if read(input.take(LONGEST).read_until(b'\n', &mut line))? == 0 {
            break;
        }
        if line.len() as u64 == LONGEST && !line.ends_with(b"\n") {
            read(input.skip_until(b'\n'))?;
            bad.tell("line", number, &format!("has more than {LONGEST} bytes"));
            continue;
        }
        let outcome = match std::str::from_utf8(&line).map(str::trim) {
            Ok("") => Ok(()),
            Ok(text) if text.starts_with('#') => Ok(()),
            Ok(text) => take(text, number)?,
            Err(_) => Err("is no text".to_owned()),
        };
        if let Err(error) = outcome {
            bad.tell("line", number, &error);
        }
    }
    Ok(bad)
}

/// Hands each record of `size` bytes to `take`, with its number from 1 on.
pub(crate) fn each_record(
    input: &mut dyn BufRead,
    size: usize,
    mut take: impl FnMut(&[u8]) -> Result<Result<(), String>, Stop>,
) -> Result<Bad, Stop> {
    let (mut bad, mut progress) = (Bad::default(), Progress::new());
    let mut record = Vec::with_capacity(size);
    for number in 1.. {
        progress.at(number - 1);
        record.clear();
        let found = read(input.take(size as u64).read_to_end(&mut record))?;
        if found == 0 {
            break;
        }
        if let Err(error) = take(&record)? {
            bad.tell("record", number, &error);
        }
        if found < size {
            break;
        }
    }
    Ok(bad)
}

fn read<T>(outcome: io::Result<T>) -> Result<T, Stop> {
    outcome.map_err(|error| Stop::Failed(format!("reading failed: {error}")))
}
