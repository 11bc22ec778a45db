//! The table, as Markdown that can be read as it is.

use crate::contenders::Measure;
use crate::measure::Measured;

const HEAD: [&str; 6] = ["measured", "between", "contender", "median", "quartiles", "times the rival's time"];

/// How many times the time of a rival it takes, one for each rival.
fn ratios(row: &Measured, all: &[Measured]) -> String {
    let rivals = row.contender.rivals.iter().filter_map(|rival| {
        let found = all.iter().find(|other| other.contender.is(row.contender.measure, *rival))?;
        let ratio = row.ratio(found);
        let digits = if ratio < 0.1 { 3 } else { 2 };
        Some(format!("{ratio:.digits$} × {}, {}", rival.1, rival.0))
    });
    rivals.collect::<Vec<_>>().join("; ")
}

pub(crate) fn nanoseconds(time: f64) -> String {
    if time < 100.0 { format!("{time:.1}") } else { format!("{time:.0}") }
}

fn rows(measured: &[Measured]) -> Vec<[String; 6]> {
    let mut rows = vec![HEAD.map(String::from)];
    for measure in Measure::ALL {
        let of_it = measured.iter().filter(|row| row.contender.measure == measure);
        for (number, row) in of_it.enumerate() {
            let (lower, upper) = row.quartiles();
            rows.push([
                if number == 0 { measure.title().into() } else { String::new() },
                row.contender.place.to_string(),
                row.contender.name.into(),
                nanoseconds(row.median()),
                format!("{} to {}", nanoseconds(lower), nanoseconds(upper)),
                ratios(row, measured),
            ]);
        }
    }
    rows
}

pub(crate) fn markdown(measured: &[Measured]) -> String {
    let rows = rows(measured);
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(widths) {
            text += &format!("| {cell:width$} ");
        }
        text += "|\n";
        if number == 0 {
            widths.iter().for_each(|width| text += &format!("|{}", "-".repeat(width + 2)));
            text += "|\n";
        }
    }
    text
}
