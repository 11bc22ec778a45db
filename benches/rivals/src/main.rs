//! Compares recordfd with what is used in its place, both in one run; see README.md.

mod carrier;
mod contenders;
mod drive;
mod machine;
mod measure;
mod plot;
mod process;
mod table;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::contenders::Contender;
use crate::process::There;

/// Where the table and the plot belong.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

/// Compares recordfd with what is used in its place, on the same 40 bytes, in threads and processes.
///
/// Prints one table. Without --only it also writes it to docs/rivals.md, with a plot in docs/rivals.svg.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Rounds that all contenders take part in by turns.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only contenders with this in their name, place or measure, and their rivals.
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Folder for rivals.md and rivals.svg.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(subcommand)]
    side: Option<Side>,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// The other process of a contender.
    #[command(hide = true)]
    There { contender: usize, count: u64, names: Vec<String> },
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let all = contenders::all();
    if let Some(Side::There { contender, count, names }) = arguments.side {
        all[contender].run_there(&There { count, names });
        return Ok(());
    }
    let chosen = choose(&all, arguments.only.as_deref());
    if chosen.is_empty() {
        return Err("there is no such contender".into());
    }
    let measured = measure::measure(&all, &chosen, arguments.rounds as usize);
    let table = table::markdown(&measured);
    print!("{table}");
    let folder = match (&arguments.out, &arguments.only) {
        (Some(folder), _) => folder,
        (None, None) => Path::new(DOCS),
        // Half a table must not replace a whole one.
        (None, Some(_)) => return Ok(()),
    };
    fs::write(folder.join("rivals.md"), page(&table, arguments.rounds))?;
    plot::draw(&measured, &folder.join("rivals.svg"))
}

/// The contenders with `pattern` in what they are called, and their rivals.
fn choose(all: &[Contender], pattern: Option<&str>) -> Vec<usize> {
    let pattern = pattern.unwrap_or_default().to_lowercase();
    let is_meant = |contender: &Contender| {
        let called = format!("{}, {}: {}", contender.name, contender.place, contender.measure.title());
        called.to_lowercase().contains(&pattern)
    };
    let meant: Vec<&Contender> = all.iter().filter(|contender| is_meant(contender)).collect();
    let is_rival = |contender: &Contender| {
        meant.iter().any(|one| one.rivals.iter().any(|rival| contender.is(one.measure, *rival)))
    };
    (0..all.len()).filter(|index| is_meant(&all[*index]) || is_rival(&all[*index])).collect()
}

/// The page that the table is on.
fn page(table: &str, rounds: u32) -> String {
    let features = if cfg!(feature = "iceoryx2") { " --features iceoryx2" } else { "" };
    let machine = machine::description();
    format!(
        "# recordfd and its rivals\n\n\
         Records of 40 bytes; medians and quartiles of {rounds} rounds that all contenders took part in by turns, \
         and medians of the ratios of each round. \
         What is measured and how: [benches/rivals](../benches/rivals/README.md). The command:\n\n\
         ```sh\n\
         cargo run --release --manifest-path benches/rivals/Cargo.toml{features} -- --rounds {rounds}\n\
         ```\n\n\
         The machine: {machine}.\n\n\
         {table}\n\
         The same as bars; blue is recordfd, light is between threads, a line goes from quartile to quartile:\n\n\
         ![Bars of the medians](rivals.svg)\n"
    )
}
