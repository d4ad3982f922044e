//! The plots of a report, as SVG that takes the color of the text around it.

use std::ops::Range;

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, Rectangle, Text};
use plotters::series::LineSeries;
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle};

use super::summary::Evaluation;

/// Width and height in pixels, in proportion to which letters are 15 pixels high.
const SIZE: (u32, u32) = (480, 300);
const LETTERS: (&str, u32) = ("sans-serif", 15);
/// Stands for the color of text.
const INK: RGBColor = RGBColor(1, 2, 3);
/// Colors that differ for color-blind people too, on white and on black (Okabe and Ito).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
];
/// Most points of a line, of which each is the mean of some positions.
const POINTS: usize = 64;

/// A plot with its title.
pub struct Plot {
    pub title: &'static str,
    pub svg: String,
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type LogChart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

/// The color of a model, as CSS has it.
pub fn color(model: usize) -> String {
    let RGBColor(red, green, blue) = COLORS[model % COLORS.len()];
    format!("rgb({red},{green},{blue})")
}

/// All plots of an evaluation.
pub fn plots(evaluation: &Evaluation) -> Vec<Plot> {
    let models = &evaluation.models;
    let points: Vec<_> = models
        .iter()
        .map(|it| vec![(it.bytes as f64 / 1e6, it.quality.kl_divergence.mean.value)])
        .collect();
    let positions: Vec<_> = models.iter().map(|it| thinned(&it.kl_by_position)).collect();
    let numbered = |values: &Vec<f64>| (0..).map(f64::from).zip(values.iter().copied()).collect();
    let layers: Vec<Vec<(f64, f64)>> =
        models.iter().map(|it| numbered(&it.error_by_layer)).collect();
    let mut plots = vec![
        plot("KL divergence in nats, by size", |area| curves(area, &points, "MB")),
        plot("KL divergence in nats, by position in a window", |area| {
            curves(area, &positions, "tokens before")
        }),
    ];
    if layers.iter().any(|line| !line.is_empty()) {
        plots.push(plot("Relative error of the residual stream, by layer", |area| {
            curves(area, &layers, "layers passed")
        }));
    }
    let uses = &evaluation.reference.expert_use.layers;
    plots.push(plot("Use of experts (a stronger color: by more tokens)", |area| {
        heat_map(area, uses)
    }));
    plots
}

/// Draws on a new area. Drawing into memory does not fail; a plot that cannot be drawn says why.
fn plot(title: &'static str, draw: impl FnOnce(&Area) -> Drawn) -> Plot {
    let mut svg = String::new();
    let outcome = {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(&area).and_then(|()| area.present())
    };
    if let Err(error) = outcome {
        svg = format!("<p>This plot could not be drawn: {error}.</p>");
    }
    // The backend writes one fixed size and one fixed color.
    let RGBColor(red, green, blue) = INK;
    let ink = format!("#{red:02X}{green:02X}{blue:02X}");
    Plot { title, svg: svg.replace(&ink, "currentColor") }
}

fn letters() -> TextStyle<'static> {
    LETTERS.into_font().color(&INK)
}

/// The means of at most [`POINTS`] parts of equal length, at their middles.
fn thinned(values: &[f64]) -> Vec<(f64, f64)> {
    let length = values.len().div_ceil(POINTS).max(1);
    let part = |(at, part): (usize, &[f64])| {
        let (count, first) = (part.len() as f64, (at * length) as f64);
        (first + (count - 1.0) / 2.0, part.iter().sum::<f64>() / count)
    };
    values.chunks(length).enumerate().map(part).collect()
}

/// A line for each model, or a numbered point where it has one value, over a logarithmic axis.
fn curves(area: &Area, lines: &[Vec<(f64, f64)>], across: &str) -> Drawn {
    let drawn = |line: &[(f64, f64)]| -> Vec<(f64, f64)> {
        // A logarithmic axis has no 0.
        line.iter().filter(|(_, y)| *y > 0.0 && y.is_finite()).copied().collect()
    };
    let lines: Vec<_> = lines.iter().map(|line| drawn(line)).collect();
    let all: Vec<(f64, f64)> = lines.iter().flatten().copied().collect();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let low = all.iter().map(of).fold(f64::INFINITY, f64::min);
        low..all.iter().map(of).fold(f64::NEG_INFINITY, f64::max)
    };
    if all.is_empty() {
        return area.draw(&Text::new("no values to show", (20, 20), letters()));
    }
    let (x, y) = (range(|it| it.0), range(|it| it.1));
    let margin = (x.end - x.start).max(x.end.abs() * 0.1).max(1e-3) * 0.05;
    let x = (x.start - margin).max(0.0)..x.end + margin;
    let y = 10f64.powf(y.start.log10().floor())..10f64.powf((y.end * 1.01).log10().ceil());
    let mut chart = axes(area, x, y, across)?;
    for (at, line) in lines.into_iter().enumerate() {
        let color = COLORS[at % COLORS.len()];
        if let [(x, y)] = line[..] {
            chart.draw_series([Circle::new((x, y), 5, color.filled())])?;
            let number = (at + 1).to_string();
            let place = chart.backend_coord(&(x, y));
            area.draw(&Text::new(number, (place.0 + 8, place.1 - 8), letters()))?;
        } else {
            chart.draw_series(LineSeries::new(line, ShapeStyle::from(&color).stroke_width(2)))?;
        }
    }
    Ok(())
}

fn axes<'a>(
    area: &Area<'a>,
    x: Range<f64>,
    y: Range<f64>,
    across: &str,
) -> Result<LogChart<'a>, DrawingAreaErrorKind<std::io::Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .margin_right(16)
        .build_cartesian_2d(x, y.log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(INK.mix(0.0))
        .bold_line_style(INK.mix(0.15))
        .axis_style(INK)
        .label_style(letters())
        .axis_desc_style(letters())
        .x_desc(across)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| format!("{}", (value * 1e3).round() / 1e3))
        .y_label_formatter(&|value| format!("{value:.0e}"))
        .draw()?;
    Ok(chart)
}

/// A cell for each expert, in a row for each layer.
fn heat_map(area: &Area, uses: &[Vec<u64>]) -> Drawn {
    let columns = uses.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let most = uses.iter().flatten().copied().max().unwrap_or(0).max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .set_left_and_bottom_label_area_size(44)
        .margin_right(16)
        .build_cartesian_2d(0.0..columns as f64, 0.0..uses.len().max(1) as f64)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(INK)
        .label_style(letters())
        .axis_desc_style(letters())
        .x_desc("expert")
        .y_desc("layer")
        .x_labels(8)
        .y_labels(uses.len().min(8))
        .x_label_formatter(&|it| format!("{it:.0}"))
        .y_label_formatter(&|it| format!("{it:.0}"))
        .draw()?;
    for (layer, uses) in uses.iter().enumerate() {
        let cells = uses.iter().enumerate().map(|(expert, count)| {
            let (x, y) = (expert as f64, layer as f64);
            let strength = (*count as f64 / most).sqrt();
            Rectangle::new([(x, y), (x + 1.0, y + 1.0)], COLORS[0].mix(strength).filled())
        });
        chart.draw_series(cells)?;
    }
    Ok(())
}
