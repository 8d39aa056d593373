//! Links between the documents, and to files of the repository.

use crate::left_out::root;
use crate::page::Page;

/// The targets of all links and pictures, code apart.
pub fn of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece stands between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for rest in prose.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push(target.to_owned());
            }
        }
    }
    found
}

/// The name that a heading has as a target, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && line.starts_with('#') {
            found.push(anchor(line.trim_start_matches('#')));
        }
    }
    found
}

/// What is wrong with the links of this page. A page of the book links to pages of the book only, since nothing else is on
/// the site.
pub fn dead(page: &Page) -> Vec<String> {
    let mut problems = Vec::new();
    let from = root().join(&page.name);
    let book = root().join("docs/src");
    for link in of(&page.text) {
        let mut problem = |what: &str| problems.push(format!("{}: {link}: {what}", page.name));
        if link.starts_with("https://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, wanted) = link.split_once('#').unwrap_or((&link, ""));
        let target = if file.is_empty() { from.clone() } else { from.with_file_name("").join(file) };
        let Ok(target) = target.canonicalize() else {
            problem("no such file");
            continue;
        };
        if from.starts_with(&book) && !target.starts_with(&book) {
            problem("leads out of the book");
        }
        if !wanted.is_empty() {
            let text = std::fs::read_to_string(&target).unwrap_or_default();
            if !anchors(&text).contains(&wanted.to_owned()) {
                problem("no such heading");
            }
        }
    }
    problems
}
