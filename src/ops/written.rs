//! Families as they were written last. Most series of a scrape are those of the scrape before, and many have the same
//! value: what is put again costs a comparison, and a number that has changed is written behind the words that were
//! written for it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use prometheus::TextEncoder;
use prometheus::proto::{self, Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use rustc_hash::FxBuildHasher;

use super::stats::seconds;
use crate::metrics::catalog::{EXPORTER, Kind, METRICS, Metric as Row};
use crate::metrics::{BUCKETS_US, Histogram};

#[derive(Debug)]
pub(super) struct Last {
    /// Where a name stands in the catalog.
    places: HashMap<&'static str, usize, FxBuildHasher>,
    /// In the catalog's order.
    families: Vec<Family>,
    /// The places in the order in which they were put.
    order: Vec<usize>,
}

#[derive(Debug)]
struct Family {
    row: &'static Row,
    series: Vec<Kept>,
    /// How many of them have been put.
    put: usize,
    change: Change,
    text: String,
    /// Where the numbers of all series stand in it.
    numbers: Vec<Range<usize>>,
}

/// What was put is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    None,
    Values,
    Series,
}

#[derive(Debug)]
struct Kept {
    labels: Box<[Box<str>]>,
    value: Value<Box<Histogram>>,
    /// Since it was written.
    changed: bool,
}

#[derive(Debug)]
enum Value<H> {
    Number(f64),
    Histogram(H),
}

/// Figures as they come.
pub(super) struct Series<'l> {
    last: &'l mut Last,
    /// How many there were.
    put: usize,
}

impl Default for Last {
    fn default() -> Self {
        let rows = || METRICS.iter().chain(EXPORTER);
        let family = |row| Family {
            row,
            series: Vec::new(),
            put: 0,
            change: Change::None,
            text: String::new(),
            numbers: Vec::new(),
        };
        Self {
            places: rows().enumerate().map(|(place, row)| (row.name, place)).collect(),
            families: rows().map(family).collect(),
            order: Vec::new(),
        }
    }
}

impl Last {
    pub(super) fn begin(&mut self) -> Series<'_> {
        for family in &mut self.families {
            family.put = 0;
        }
        Series { last: self, put: 0 }
    }

    /// Of all that was put since the beginning.
    pub(super) fn text(&mut self) -> Result<String, String> {
        let mut text =
            String::with_capacity(self.families.iter().map(|f| f.text.len()).sum::<usize>() + 4096);
        for family in &mut self.families {
            family.write()?;
            text.push_str(&family.text);
        }
        Ok(text)
    }
}

impl Series<'_> {
    /// One value, with the values of the row's labels in their order.
    pub(super) fn put(&mut self, name: &str, labels: &[&str], value: f64) {
        self.add(name, labels, &Value::Number(value));
    }

    pub(super) fn put_histogram(&mut self, name: &str, labels: &[&str], h: &Histogram) {
        self.add(name, labels, &Value::Histogram(h));
    }

    /// A name without a row is not exported: the tests see to it that there is none.
    fn add(&mut self, name: &str, labels: &[&str], value: &Value<&Histogram>) {
        let family = self.place(name).and_then(|place| self.last.families.get_mut(place));
        debug_assert!(
            family.as_ref().is_some_and(|f| f.row.labels.len() == labels.len()),
            "{name}{labels:?}"
        );
        if let Some(family) = family {
            family.add(labels, value);
        }
    }

    /// Likely where the scrape before had it: that saves the search.
    fn place(&mut self, name: &str) -> Option<usize> {
        let Last { places, families, order } = &mut *self.last;
        let turn = self.put;
        self.put += 1;
        let likely = order.get(turn).copied();
        if likely.and_then(|place| families.get(place)).is_some_and(|f| f.row.name == name) {
            return likely;
        }
        let place = places.get(name).copied()?;
        match order.get_mut(turn) {
            Some(other) => *other = place,
            None => order.push(place),
        }
        Some(place)
    }
}

impl Family {
    fn add(&mut self, labels: &[&str], value: &Value<&Histogram>) {
        let likely = self.series.get_mut(self.put);
        match likely.filter(|kept| kept.labels.iter().map(|l| &**l).eq(labels.iter().copied())) {
            Some(kept) if kept.value.is(value) => {}
            Some(kept) => {
                kept.value = value.kept();
                kept.changed = true;
                self.change = self.change.max(Change::Values);
            }
            None => {
                self.series.truncate(self.put);
                let labels = labels.iter().copied().map(Into::into).collect();
                self.series.push(Kept { labels, value: value.kept(), changed: true });
                self.change = Change::Series;
            }
        }
        self.put += 1;
    }

    /// What cannot be written is not taken for written.
    fn write(&mut self) -> Result<(), String> {
        if self.put < self.series.len() {
            self.series.truncate(self.put);
            self.change = Change::Series;
        }
        if self.change == Change::Series {
            self.write_words()?;
        }
        if self.change > Change::None {
            self.write_numbers();
        }
        self.change = Change::None;
        Ok(())
    }

    /// By the encoder, with no numbers yet.
    fn write_words(&mut self) -> Result<(), String> {
        self.text.clear();
        self.numbers.clear();
        if self.series.is_empty() {
            return Ok(());
        }
        let mut family = MetricFamily::default();
        family.set_name(self.row.name.to_owned());
        family.set_help(self.row.help.to_owned());
        family.set_field_type(match self.row.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.series.iter().map(|kept| self.without_value(kept)).collect());
        TextEncoder::new().encode_utf8(&[family], &mut self.text).map_err(|e| e.to_string())?;
        // A value ends its line; line ends within labels are escaped.
        let mut end = 0;
        for line in self.text.split_inclusive('\n') {
            end += line.len();
            if let Some((_, value)) = line.trim_end().rsplit_once(' ').filter(|_| !line.starts_with('#')) {
                self.numbers.push(end - 1 - value.len()..end - 1);
            }
        }
        for kept in &mut self.series {
            kept.changed = true;
        }
        Ok(())
    }

    fn without_value(&self, kept: &Kept) -> Metric {
        // Only pools of replicas are of one host.
        let all = self.row.labels.iter().copied().zip(kept.labels.iter().map(|l| &**l));
        let labels = all.filter(|(name, value)| *name != "host" || !value.is_empty());
        let pair = |(name, value): (&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        let mut m = Metric::from_label(labels.map(pair).collect());
        match self.row.kind {
            Kind::Counter => m.set_counter(Counter::default()),
            Kind::Gauge => m.set_gauge(Gauge::default()),
            Kind::Histogram => {
                let bucket = |us: &u64| {
                    let mut b = Bucket::default();
                    b.set_upper_bound(seconds(*us));
                    b
                };
                let mut h = proto::Histogram::default();
                h.set_bucket(BUCKETS_US.iter().map(bucket).collect());
                m.set_histogram(h);
            }
        }
        m
    }

    fn write_numbers(&mut self) {
        let old = std::mem::take(&mut self.text);
        let text = &mut self.text;
        text.reserve(old.len() + 64);
        let mut numbers = self.numbers.iter_mut();
        let mut copied = 0;
        for kept in &mut self.series {
            let mut of_series = numbers.by_ref().take(kept.value.numbers());
            if !std::mem::take(&mut kept.changed) {
                for range in of_series {
                    *range = text.len() + range.start - copied..text.len() + range.end - copied;
                }
                continue;
            }
            let mut write = |number: Number| {
                let Some(range) = of_series.next() else { return };
                text.push_str(old.get(copied..range.start).unwrap_or_default());
                copied = range.end;
                let start = text.len();
                number.write(text);
                *range = start..text.len();
            };
            match &kept.value {
                Value::Number(n) => write(Number::Float(*n)),
                Value::Histogram(h) => {
                    let mut below = 0;
                    // What is above the last bound is in +Inf alone.
                    for count in h.counts.iter() {
                        below += count;
                        write(Number::Count(below));
                    }
                    write(Number::Float(seconds(h.sum_us)));
                    write(Number::Count(below));
                }
            }
        }
        text.push_str(old.get(copied..).unwrap_or_default());
    }
}

impl Value<Box<Histogram>> {
    fn is(&self, other: &Value<&Histogram>) -> bool {
        match (self, other) {
            (Self::Number(a), Value::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Histogram(a), Value::Histogram(b)) => **a == **b,
            (Self::Number(_), Value::Histogram(_)) | (Self::Histogram(_), Value::Number(_)) => false,
        }
    }

    /// How many stand in the text for it: those of a histogram are its buckets, the sum and the count.
    fn numbers(&self) -> usize {
        match self {
            Self::Number(_) => 1,
            Self::Histogram(h) => h.counts.len() + 2,
        }
    }
}

impl Value<&Histogram> {
    fn kept(&self) -> Value<Box<Histogram>> {
        match self {
            Self::Number(n) => Value::Number(*n),
            Self::Histogram(h) => Value::Histogram(Box::new((*h).clone())),
        }
    }
}

enum Number {
    Count(u64),
    Float(f64),
}

impl Number {
    fn write(self, text: &mut String) {
        match self {
            Self::Count(n) => text.push_str(itoa::Buffer::new().format(n)),
            // Most are whole, and those are written fast.
            Self::Float(f) if f.is_sign_positive() && f < 1e15 && f.fract() == 0.0 => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number from 0 to below 10^15, as the condition says"
                )]
                let whole = f as u64;
                text.push_str(itoa::Buffer::new().format(whole));
            }
            Self::Float(f) => {
                let _ = write!(text, "{f}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ours counts each bucket for itself, Prometheus' with all below it.
    fn histogram(h: &Histogram) -> proto::Histogram {
        let mut below = 0;
        let buckets = BUCKETS_US.iter().zip(&h.counts).map(|(bound, count)| {
            below += count;
            let mut b = Bucket::default();
            b.set_upper_bound(seconds(*bound));
            b.set_cumulative_count(below);
            b
        });
        let mut out = proto::Histogram::default();
        out.set_bucket(buckets.collect());
        out.set_sample_count(h.count());
        out.set_sample_sum(seconds(h.sum_us));
        out
    }

    /// By the encoder alone.
    fn encoded(family: &Family) -> String {
        let mut of = MetricFamily::default();
        of.set_name(family.row.name.to_owned());
        of.set_help(family.row.help.to_owned());
        of.set_field_type(if family.row.kind == Kind::Histogram {
            MetricType::HISTOGRAM
        } else {
            MetricType::GAUGE
        });
        let filled = |kept: &Kept| {
            let mut m = family.without_value(kept);
            match &kept.value {
                Value::Histogram(h) => m.set_histogram(histogram(h)),
                Value::Number(n) => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(*n);
                    m.set_gauge(gauge);
                }
            }
            m
        };
        of.set_metric(family.series.iter().map(filled).collect());
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&[of], &mut text).expect("written");
        text
    }

    fn row(kind: Kind) -> &'static Row {
        METRICS.iter().find(|r| r.kind == kind && r.labels.contains(&"host")).expect("one")
    }

    const A: &[&str] = &["a\"\\b\nc 1", "u", "replica", "db:5432"];
    const B: &[&str] = &["", "ü", "primary", ""];

    #[test]
    fn histograms_are_written_as_the_encoder_writes_them() {
        let row = row(Kind::Histogram);
        let mut last = Last::default();
        let mut h = Histogram::default();
        let empty = Histogram::default();
        for us in [7, 50, 51, 1_234_567, 80_000_000] {
            let mut series = last.begin();
            series.put_histogram(row.name, A, &h);
            series.put_histogram(row.name, B, &empty);
            let ours = last.text().expect("written");
            let family = last.families.iter().find(|f| f.row.name == row.name).expect("one");
            assert_eq!(ours, encoded(family));
            h.add(us);
        }
    }

    #[test]
    fn numbers_are_written_as_the_encoder_writes_them() {
        let row = METRICS.iter().find(|r| r.kind == Kind::Gauge && r.labels.len() == 2).expect("one");
        let mut last = Last::default();
        let two = |a: &[&'static str]| [a[0], a[1]];
        for n in [0.0, -0.0, 1.0, -1.0, 0.1, 1e14, 1e15, 1e16, 1e300, 5e-324, f64::NAN, f64::INFINITY, 7.5] {
            let mut series = last.begin();
            series.put(row.name, &two(A), 3.0);
            series.put(row.name, &two(B), n);
            series.put(row.name, &two(&["x", "y"]), n / 3.0);
            let ours = last.text().expect("written");
            let family = last.families.iter().find(|f| f.row.name == row.name).expect("one");
            assert_eq!(ours, encoded(family));
        }
    }
}
