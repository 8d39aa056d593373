//! The documents and their blocks.

use std::path::Path;

use crate::left_out::root;

/// One document.
pub struct Page {
    /// From the root of the repository.
    pub name: String,
    pub text: String,
}

/// What a comment before a block says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Run,
    Shown,
    File(String),
    Sql(String),
    Fails,
    Output,
}

/// A part of a page that means something to a test.
#[derive(Debug)]
pub enum Part {
    /// Commands that are not shown.
    Setup(String),
    Block {
        line: usize,
        lang: String,
        wish: Wish,
        text: String,
    },
}

/// Languages of which a block is run unless it says otherwise.
const RUN: [&str; 7] = ["toml", "ini", "sql", "sh", "console", "python", "js"];

impl Page {
    pub fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { name: name.to_owned(), text }
    }

    pub fn parts(&self) -> Vec<Part> {
        self.parsed().0
    }

    pub fn has_examples(&self) -> bool {
        self.parts().iter().any(|p| match p {
            Part::Block { wish, .. } => *wish != Wish::Shown,
            Part::Setup(_) => true,
        })
    }

    /// Whether the page asks for such a server.
    pub fn needs(&self, what: &str) -> bool {
        self.text.lines().any(|l| l == format!("<!-- server: {what} -->"))
    }

    /// Blocks that nothing is known of.
    pub fn problems(&self) -> Vec<String> {
        self.parsed().1
    }

    fn parsed(&self) -> (Vec<Part>, Vec<String>) {
        let (mut parts, mut problems) = (Vec::new(), Vec::new());
        let mut lines = self.text.lines().enumerate();
        let mut comment = String::new();
        while let Some((at, line)) = lines.next() {
            let mut problem = |what: &str| problems.push(format!("{}:{}: {what}", self.name, at + 1));
            if line == "<!-- setup" {
                let text: Vec<&str> = lines.by_ref().map(|l| l.1).take_while(|l| *l != "-->").collect();
                parts.push(Part::Setup(text.join("\n")));
            } else if let Some(lang) = line.strip_prefix("```") {
                let text: Vec<&str> = lines.by_ref().map(|l| l.1).take_while(|l| *l != "```").collect();
                let wish = wish(&comment);
                if lang.is_empty() {
                    problem("a block without a language");
                }
                let known = match &wish {
                    Some(Wish::Run) => RUN.contains(&lang),
                    Some(_) => true,
                    None => false,
                };
                if !known {
                    problem("this block is not run and does not say why (`<!-- not run: REASON -->`)");
                }
                let wish = wish.unwrap_or(Wish::Shown);
                parts.push(Part::Block { line: at + 1, lang: lang.to_owned(), wish, text: text.join("\n") });
            } else if line.trim_start().starts_with("```") {
                problem("a block that is indented; tests do not see it");
            }
            comment = line.to_owned();
        }
        (parts, problems)
    }
}

fn wish(comment: &str) -> Option<Wish> {
    let Some(text) = comment.strip_prefix("<!-- ").and_then(|c| c.strip_suffix(" -->")) else {
        return Some(Wish::Run);
    };
    match text.split_once(": ").unwrap_or((text, "")) {
        ("not run", why) if why.len() > 8 => Some(Wish::Shown),
        ("file", name) if !name.is_empty() => Some(Wish::File(name.to_owned())),
        ("sql", to) if ["howdah", "console", "replica"].contains(&to) => Some(Wish::Sql(to.to_owned())),
        ("fails", "") => Some(Wish::Fails),
        ("output", "") => Some(Wish::Output),
        _ => None,
    }
}

/// Documents that are generated, or only list what has changed: their blocks are not examples.
const GENERATED: [&str; 6] = [
    "docs/src/reference/command-line.md",
    "docs/src/reference/console.md",
    "docs/src/reference/errors.md",
    "docs/src/reference/metrics.md",
    "docs/src/reference/pgbouncer-keys.md",
    "docs/src/reference/settings.md",
];

/// Every document that a user reads.
pub fn pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned(), "CHANGELOG.md".to_owned()];
    names.push("benches/README.md".to_owned());
    collect(&root().join("docs/src"), &mut names);
    names.sort_unstable();
    names.iter().map(|n| Page::read(n)).map(Page::without_generated_blocks).collect()
}

impl Page {
    fn without_generated_blocks(mut self) -> Self {
        let developers = ["CONTRIBUTING.md", "CHANGELOG.md", "benches/README.md"];
        if GENERATED.contains(&self.name.as_str()) || developers.contains(&self.name.as_str()) {
            let mut fenced = false;
            let kept = self.text.lines().filter(|l| {
                let fence = l.starts_with("```");
                fenced ^= fence;
                !fenced && !fence
            });
            self.text = kept.collect::<Vec<_>>().join("\n");
        }
        self
    }
}

fn collect(dir: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|e| e == "md") {
            let name = path.strip_prefix(root()).expect("in the repository");
            names.push(name.display().to_string());
        }
    }
}
