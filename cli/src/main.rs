//! `recordfd`: shows, converts, feeds and watches device-event records.

mod args;
mod convert;
mod exec;
mod field;
mod formats;
mod lines;
mod record;
mod text;
mod watch;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use serde_json::{Value, json};

use args::{Cli, Command, Convert};
use formats::Format;
use lines::{Bad, Stop, each_line, each_record, leave, print, tell};
use text::{hex_of, unhex};

fn main() -> ExitCode {
    let outcome = match Cli::try_parse().unwrap_or_else(|error| leave(&error)).command {
        Command::Formats { json } => list(json),
        Command::Decode { format, raw, pretty } => decode(format, raw, pretty),
        Command::Encode { format } => encode(format),
        Command::Convert(options) => change(&options),
        Command::Exec(options) => return exec::run(&options),
        Command::Watch(options) => watch::run(&options),
    };
    match outcome {
        Ok(Bad(false)) | Err(Stop::BrokenPipe) => ExitCode::SUCCESS,
        Ok(Bad(true)) => ExitCode::FAILURE,
        Err(Stop::Failed(error)) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

/// Ends the process as for any other wrong use of the command line.
fn wrong_use(message: &str) -> ! {
    let message = format!("{message}\n\nFor more information, try '--help'.\n");
    leave(&clap::Error::raw(ErrorKind::ArgumentConflict, message))
}

fn list(json: bool) -> Result<Bad, Stop> {
    if !json {
        print(&format!("{:27}{:>4}  {:12} {:32}{}", "NAME", "SIZE", "PROTOCOL", "REPLY", "WHAT"))?;
    }
    for format in formats::all() {
        let reply_size = format.reply.and_then(formats::find).map(|reply| reply.size);
        let channel = format.channel.map(|channel| channel.to_string());
        if json {
            let row = json!({
                "name": format.name,
                "size": format.size,
                "protocol": format.protocol(),
                "channel": channel,
                "channel_format": format.channel.map(|channel| channel.0),
                "reply": format.reply,
                "reply_size": reply_size,
                "converts": format.converts.is_some(),
                "about": format.about,
            });
            print(&row.to_string())?;
            continue;
        }
        let reply = match (format.reply, reply_size) {
            (Some(name), Some(size)) => format!("{name} ({size})"),
            _ => "-".to_owned(),
        };
        let row = format!(
            "{:27}{:>4}  {:12} {reply:32}{}",
            format.name,
            format.size,
            format.protocol(),
            format.about
        );
        print(&row)?;
    }
    Ok(Bad(false))
}

fn decode(format: &Format, raw: bool, pretty: bool) -> Result<Bad, Stop> {
    let shown = |bytes: &[u8]| {
        let fields = record::decode(format, bytes)?;
        Ok(if pretty { record::pretty(format, bytes, &fields) } else { Value::Object(fields).to_string() })
    };
    if raw {
        return each_record(&mut io::stdin().lock(), format.size, |bytes| printed(shown(bytes)));
    }
    line_by_line(|line, _| shown(&unhex(line)?))
}

/// Prints a line, or gives back why there is none.
fn printed(line: Result<String, String>) -> Result<Result<(), String>, Stop> {
    match line {
        Ok(line) => print(&line).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// Prints a line for each line, or tells why there is none.
fn line_by_line(mut make: impl FnMut(&str, u64) -> Result<String, String>) -> Result<Bad, Stop> {
    each_line(&mut io::stdin().lock(), |line, number| printed(make(line, number)))
}

fn encode(format: &Format) -> Result<Bad, Stop> {
    line_by_line(|line, _| {
        let value = serde_json::from_str(line).map_err(|error| format!("is no JSON: {error}"))?;
        record::encode(format, &value).map(|bytes| hex_of(&bytes))
    })
}

fn change(options: &Convert) -> Result<Bad, Stop> {
    let way = convert::Way::new(options.from, options.to).unwrap_or_else(|error| wrong_use(&error));
    if let (convert::Way::Responses(..), Err(error)) = (&way, options.check_answers()) {
        wrong_use(&error);
    }
    let given = options.given();
    line_by_line(|line, number| {
        let (bytes, loss) = way.convert(&unhex(line)?, &given)?;
        if !loss.is_empty() {
            let names: Vec<_> = loss.iter_names().map(|(name, _)| name).collect();
            tell(&format!("line {number}: lost {}", names.join(" ")));
        }
        Ok(hex_of(&bytes))
    })
}
