//! The plot: a bar for each contender, one panel for each thing measured.

use std::error::Error;
use std::path::Path;

use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use crate::contenders::{Measure, Place};
use crate::measure::Measured;
use crate::table::nanoseconds;

const WIDTH: u32 = 1000;
const ROW: u32 = 22;
/// Of a panel, around its rows.
const AROUND: u32 = 80;
const LABELS: u32 = 380;

const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const RIVALS: RGBColor = RGBColor(0xa0, 0xa0, 0xa0);

pub(crate) fn draw(measured: &[Measured], path: &Path) -> Result<(), Box<dyn Error>> {
    let panels = Measure::ALL.map(|measure| {
        let rows: Vec<_> = measured.iter().filter(|row| row.contender.measure == measure).collect();
        (measure, rows)
    });
    let panels: Vec<_> = panels.iter().filter(|(_, rows)| !rows.is_empty()).collect();
    let heights: Vec<u32> = panels.iter().map(|(_, rows)| rows.len() as u32 * ROW + AROUND).collect();
    let root = SVGBackend::new(path, (WIDTH, heights.iter().sum())).into_drawing_area();
    root.fill(&WHITE)?;
    let mut rest = root.clone();
    for ((measure, rows), height) in panels.iter().zip(heights) {
        let (area, below) = rest.split_vertically(height);
        panel(&area, *measure, rows)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel(area: &Area<'_>, measure: Measure, rows: &[&Measured]) -> Result<(), Box<dyn Error>> {
    let least = rows.iter().map(|row| row.quartiles().0).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|row| row.quartiles().1).fold(0.0, f64::max);
    let from = 10f64.powf(least.log10().floor());
    // Room for the figure behind the longest bar.
    let to = most * (most / from).powf(0.15);
    let count = rows.len();
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{} (less is better)", measure.title()), ("sans-serif", 16))
        .margin(8)
        .y_label_area_size(LABELS)
        .x_label_area_size(28)
        .build_cartesian_2d((from..to).log_scale(), (0..count - 1).into_segmented())?;
    let label = |value: &SegmentValue<usize>| match value {
        SegmentValue::CenterOf(number) if *number < count => {
            // The first row on top.
            let contender = &rows[count - 1 - number].contender;
            format!("{}, {}", contender.name, contender.place)
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(WHITE)
        .y_labels(count)
        .y_label_formatter(&label)
        .y_label_style(("sans-serif", 13))
        .x_label_formatter(&|time| format!("{time}"))
        .x_label_style(("sans-serif", 12))
        .draw()?;
    for (number, row) in rows.iter().rev().enumerate() {
        let (lower, upper) = row.quartiles();
        let colour = if row.contender.is_ours() { OURS } else { RIVALS };
        let strength = if row.contender.place == Place::Threads { 0.6 } else { 1.0 };
        let bottom_to_top = [SegmentValue::Exact(number), SegmentValue::Exact(number + 1)];
        let [bottom, top] = bottom_to_top;
        let mut bar = Rectangle::new([(from, bottom), (row.median(), top)], colour.mix(strength).filled());
        bar.set_margin(3, 3, 0, 0);
        let middle = || SegmentValue::CenterOf(number);
        let spread = PathElement::new([(lower, middle()), (upper, middle())], BLACK);
        let figure = EmptyElement::at((upper.max(row.median()), middle()))
            + Text::new(nanoseconds(row.median()), (6, -6), ("sans-serif", 12));
        chart.draw_series([bar])?;
        chart.draw_series([spread])?;
        chart.draw_series([figure])?;
    }
    Ok(())
}
