//! Prometheus' text format, read strictly: what a scrape holds, or why it is none.

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// A scrape whose form is right.
#[derive(Debug, Default)]
pub struct Exposition {
    /// Type by name of the family.
    pub families: BTreeMap<String, String>,
    /// Each series once.
    pub samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Checks every line, and every histogram as a whole.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        let mut helped = BTreeSet::new();
        let mut current = String::new();
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for line in text.lines() {
            let wrong = |why: &str| Err(format!("{why}: {line}"));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| format!("no help: {line}"))?;
                if help.trim().is_empty() || !helped.insert(name.to_owned()) {
                    return wrong("HELP is empty, or there twice");
                }
                name.clone_into(&mut current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("no type: {line}"))?;
                if !["counter", "gauge", "histogram"].contains(&kind) || name != current {
                    return wrong("an unknown type, or HELP does not precede TYPE");
                }
                if out.families.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return wrong("TYPE twice");
                }
            } else {
                let (name, labels, value) = sample(line).map_err(|why| format!("{why}: {line}"))?;
                let kind = out.families.get(&current).map_or("", String::as_str);
                let suffix = name.strip_prefix(current.as_str()).unwrap_or("?");
                let belongs = match kind {
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                    _ => suffix.is_empty(),
                };
                if !belongs {
                    return wrong("a sample outside its family");
                }
                if kind != "gauge" && !(value >= 0.0 && value.is_finite()) {
                    return wrong("not a count");
                }
                if out.samples.insert((name, labels), value).is_some() {
                    return wrong("the series is there twice");
                }
            }
        }
        out.check_histograms()?;
        Ok(out)
    }

    /// The value of one series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    fn check_histograms(&self) -> Result<(), String> {
        for family in self.families.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let counts = self.samples.iter().filter(|((n, _), _)| *n == format!("{family}_count"));
            for ((_, labels), count) in counts {
                let wrong = |why: &str| Err(format!("{family}{labels:?}: {why}"));
                if !self.samples.contains_key(&(format!("{family}_sum"), labels.clone())) {
                    return wrong("no sum");
                }
                let mut buckets = Vec::new();
                for ((n, l), value) in &self.samples {
                    let mut rest = l.clone();
                    if *n == format!("{family}_bucket")
                        && let Some(le) = rest.remove("le")
                        && rest == *labels
                    {
                        buckets.push((number(&le)?, *value));
                    }
                }
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                if !buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
                    return wrong("the buckets do not grow");
                }
                if buckets.last() != Some(&(f64::INFINITY, *count)) {
                    return wrong("the last bucket is not the count");
                }
            }
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        text => text.parse().map_err(|_| format!("not a number: {text}")),
    }
}

/// `name{label="value",...} number`
fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let is_name = |n: &str| {
        n.starts_with(|c: char| c.is_ascii_lowercase())
            && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if !is_name(name) {
        return Err("not a name".to_owned());
    }
    let mut labels = Labels::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inner.split_once("=\"").ok_or("a label without a value")?;
            let (value, after) = quoted(after)?;
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("a wrong label {label}"));
            }
            match after.strip_prefix(',') {
                Some(more) => inner = more,
                None => {
                    rest = after.strip_prefix('}').ok_or("labels do not end")?;
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no value")?;
    Ok((name.to_owned(), labels, number(value)?))
}

/// The text up to the closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Ok((out, &text[i + 1..])),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some(c @ ('\\' | '"')) => out.push(c),
                _ => return Err("a wrong escape".to_owned()),
            },
            c => out.push(c),
        }
    }
    Err("no closing quote".to_owned())
}
