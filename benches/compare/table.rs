//! Medians, spreads and the one table that the bench prints.

use std::fmt::Write as _;

/// One round of one contender.
#[derive(Clone, Default)]
pub(crate) struct Sample {
    pub(crate) tps: f64,
    pub(crate) cpu: f64,
    pub(crate) user: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) rss: f64,
    pub(crate) pss: f64,
    pub(crate) errors: u64,
}

pub(crate) struct Row {
    pub(crate) workload: String,
    pub(crate) contender: String,
    pub(crate) idle: bool,
    /// The row that the ratios of its workload refer to.
    pub(crate) reference: bool,
    pub(crate) samples: Vec<Sample>,
    pub(crate) syscalls: Option<f64>,
    pub(crate) instructions: Option<f64>,
    /// Why there are no samples.
    pub(crate) failure: Option<String>,
}

/// Lowest, middle and highest value of one column.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Row {
    fn column(&self, pick: impl Fn(&Sample) -> f64) -> Spread {
        let mut values: Vec<f64> = self.samples.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (middle, last) = (values.len() / 2, values.len().saturating_sub(1));
        let median =
            if values.len() % 2 == 1 { at(middle) } else { (at(middle.max(1) - 1) + at(middle)) / 2.0 };
        Spread { low: at(0), median, high: at(last) }
    }

    /// The figure that stands for the workload: memory where nothing happens, else CPU.
    fn figure(&self) -> f64 {
        self.column(|sample| if self.idle { sample.rss } else { sample.cpu }).median
    }
}

const HEAD: [&str; 13] = [
    "workload",
    "pooler",
    "µs CPU/tx (low–high)",
    "user",
    "ratio",
    "tx/s",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "RSS MB (low–high)",
    "PSS MB",
    "syscalls/tx",
    "instr./tx",
];

/// The table as Markdown; the ratio compares CPU per transaction, or RSS where clients only wait.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned).to_vec()];
    let mut notes = String::new();
    for row in rows {
        if let Some(failure) = &row.failure {
            let _ = writeln!(notes, "- {}, {}: {failure}", row.workload, row.contender);
        }
        let errors: u64 = row.samples.iter().map(|sample| sample.errors).sum();
        if errors > 0 {
            let _ = writeln!(notes, "- {}, {}: {errors} errors", row.workload, row.contender);
        }
        if !row.samples.is_empty() {
            lines.push(line(row, rows));
        }
    }
    let width = |at: usize| lines.iter().map(|cells| cells[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut out = String::new();
    for (number, cells) in lines.iter().enumerate() {
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, "| {cell:<width$} ");
        }
        out.push_str("|\n");
        if number == 0 {
            for width in &widths {
                let _ = write!(out, "|{}", "-".repeat(width + 2));
            }
            out.push_str("|\n");
        }
    }
    out + "\n" + &notes
}

fn line(row: &Row, rows: &[Row]) -> Vec<String> {
    let same = |other: &&Row| other.workload == row.workload && other.reference && !other.samples.is_empty();
    let ratio = rows.iter().find(same).map(|reference| row.figure() / reference.figure());
    let busy = |text: String| if row.idle { "–".to_owned() } else { text };
    let plain = |pick: fn(&Sample) -> f64| busy(format!("{:.0}", row.column(pick).median));
    let counted = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let cpu = row.column(|sample| sample.cpu);
    let rss = row.column(|sample| sample.rss);
    let pss = row.column(|sample| sample.pss).median;
    vec![
        row.workload.clone(),
        row.contender.clone(),
        busy(format!("{:.2} ({:.2}–{:.2})", cpu.median, cpu.low, cpu.high)),
        busy(format!("{:.2}", row.column(|sample| sample.user).median)),
        counted(ratio, 2),
        plain(|sample| sample.tps),
        plain(|sample| sample.p50),
        plain(|sample| sample.p99),
        plain(|sample| sample.p999),
        format!("{:.1} ({:.1}–{:.1})", rss.median, rss.low, rss.high),
        counted(pss.is_finite().then_some(pss), 1),
        counted(row.syscalls, 2),
        counted(row.instructions, 0),
    ]
}
