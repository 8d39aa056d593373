//! Scripts that are enumerated rather than written: short sequences, permutations, error positions.

use super::script::Script;

pub fn all() -> Vec<Script> {
    let mut scripts = sequences();
    scripts.extend(permutations());
    scripts.extend(errors());
    scripts.extend(transactions());
    scripts
}

/// Every sequence of up to four of {Q, PBES, S, PBEH} in one write; each query says who it is.
pub fn sequences() -> Vec<Script> {
    let mut scripts = Vec::new();
    for length in 1..=4u32 {
        for code in 0..4usize.pow(length) {
            let picks: Vec<_> = (0..length).map(|i| code / 4usize.pow(i) % 4).collect();
            let segment = |(i, pick): (usize, &usize)| match pick {
                0 => format!("Q \"select 'q{i}'\""),
                1 => format!("pbe \"select 's{i}'\" | S"),
                2 => "S".to_owned(),
                _ => format!("pbe \"select 'h{i}'\" | H"),
            };
            let segments: Vec<_> = picks.iter().enumerate().map(segment).collect();
            let ready = picks.iter().filter(|&&p| p != 3).count();
            // With no Sync at all the last CommandComplete is the end.
            let wait = if ready == 0 { format!("=C{length}") } else { format!("=Z{ready}") };
            let word: Vec<_> = picks.iter().map(|p| ["Q", "PBES", "S", "PBEH"][*p]).collect();
            let line = format!("{} | {wait}", segments.join(" | "));
            scripts.push(Script::new(format!("sequence {}", word.join("+")), vec![line]));
        }
    }
    scripts
}

/// Every order of P(known text), P(new text), B, D and C, after the text was prepared before.
pub fn permutations() -> Vec<Script> {
    let items = [
        ("Pknown", "P k \"select 'known'\""),
        ("Pnew", "P n \"select 'new %u'\""),
        ("B", "B - k"),
        ("D", "D S n"),
        ("C", "C S k"),
    ];
    let mut scripts = Vec::new();
    for order in orders(items.len()) {
        let picked: Vec<_> = order.iter().map(|&i| items[i]).collect();
        let name: Vec<_> = picked.iter().map(|p| p.0).collect();
        let once: Vec<_> = picked.iter().map(|p| p.1).collect();
        let name = name.join("+");
        let first = "P other \"select 'known'\" | S | =Z".to_owned();
        let line = format!("{} | E - | S | =Z", once.join(" | "));
        scripts.push(Script::new(format!("permutation {name}"), vec![first.clone(), line]));
        // With a Sync after each, an error hides nothing of what follows it.
        let line = format!("{} | S | B - n | E - | S | B - other | E - | S | =Z7", once.join(" | S | "));
        scripts.push(Script::new(format!("permutation with Syncs {name}"), vec![first, line]));
    }
    scripts
}

fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let insert = |rest: &Vec<usize>| -> Vec<Vec<usize>> {
        let at = |i: usize| [&rest[..i], &[n - 1], &rest[i..]].concat();
        (0..n).map(at).collect()
    };
    orders(n - 1).iter().flat_map(insert).collect()
}

/// Each kind of error at each place of a pipeline of five, with one Sync and with five.
pub fn errors() -> Vec<Script> {
    let kinds = [
        ("syntax", "pbe \"selec 1\""),
        ("runtime", "pbe \"select 1/0\""),
        ("unknown statement", "B - nobody | E -"),
        ("unknown portal", "E nobody"),
        ("duplicate", "P d \"select 1\" | P d \"select 2\""),
        ("describe", "D S nobody"),
    ];
    let mut scripts = Vec::new();
    for (name, bad) in kinds {
        for position in 0..5 {
            for (joint, count) in [(" | ", 1), (" | S | ", 5)] {
                let part = |i: usize| {
                    if i == position { bad.to_owned() } else { format!("pbe \"select 'ok{i}'\"") }
                };
                let parts: Vec<_> = (0..5).map(part).collect();
                let line = format!("{} | S | =Z{count}", parts.join(joint));
                let title = format!("error {name} at {position} with {count} Syncs");
                scripts.push(Script::new(title, vec![line]));
            }
        }
    }
    scripts
}

/// Ways to begin times ways to end, in both protocols.
pub fn transactions() -> Vec<Script> {
    let begins = [
        "begin",
        "BEGIN WORK",
        "start transaction",
        "begin isolation level serializable",
        "begin isolation level repeatable read, read only, deferrable",
        "  /* c */ begin -- x",
    ];
    let ends = ["commit", "rollback", "end", "abort", "commit and chain", "rollback and chain"];
    let mut scripts = Vec::new();
    for begin in begins {
        for end in ends {
            let body = "show transaction_isolation";
            let simple = [begin, body, end, body].map(|q| format!("Q \"{q}\" | =Z"));
            let extended = [begin, body, end, body].map(|q| format!("pbde \"{q}\" | S | =Z"));
            let close = "Q \"rollback\" | =Z".to_owned();
            let title = format!("transaction {begin:?} {end:?}");
            scripts.push(Script::new(
                format!("{title} simple"),
                [&simple[..], std::slice::from_ref(&close)].concat(),
            ));
            scripts.push(Script::new(format!("{title} extended"), [&extended[..], &[close]].concat()));
        }
    }
    scripts
}
