use super::*;

const CORPUS: &str = include_str!("corpus.txt");

fn functions() -> Vec<String> {
    vec!["my_safe".to_owned(), "app.safe_too".to_owned()]
}

fn word(class: Class) -> &'static str {
    match class {
        Class::ReadOnlyBlock => "ro",
        Class::SerializableReadOnlyBlock => "sro",
        Class::WriteBlock => "w",
        Class::BareBlock => "bare",
        Class::SetReadOnly => "sro_set",
        Class::SetReadWrite => "srw_set",
        Class::SetOther => "set",
        Class::EndBlock => "end",
        Class::HarmlessSelect => "read",
        Class::Other => "-",
    }
}

fn corpus() -> Vec<(&'static str, String)> {
    let lines = CORPUS.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    lines
        .map(|l| {
            let (class, text) = l.split_once('\t').unwrap_or_else(|| panic!("no tab in {l:?}"));
            // Two backslashes stand for one, and one with an n or t for white space.
            let text = text.replace("\\\\", "\u{1}").replace("\\n", "\n").replace("\\t", "\t");
            (class, text.replace('\u{1}', "\\"))
        })
        .collect()
}

#[test]
fn the_corpus_is_classified_as_it_says() {
    let functions = functions();
    let reading = Reading { selects: true, hints: false, functions: &functions };
    let corpus = corpus();
    assert!(corpus.len() >= 300, "{} statements", corpus.len());
    let wrong: Vec<String> = corpus
        .iter()
        .filter_map(|(class, text)| {
            let got = word(classify(text.as_bytes(), reading).class);
            (got != *class).then(|| format!("{got} in place of {class}: {text}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn without_the_opt_in_no_query_is_read_only() {
    for (_, text) in corpus() {
        let v = classify(text.as_bytes(), Reading::default());
        assert_ne!(v.class, Class::HarmlessSelect, "{text}");
    }
}

/// A text that is cut anywhere, or has something else put into it, never becomes harmless by that where the
/// whole text writes and the cut is behind what makes it write.
#[test]
fn what_follows_a_harmless_text_makes_it_suspicious() {
    let functions = functions();
    let reading = Reading { selects: true, hints: false, functions: &functions };
    for (class, text) in corpus().iter().filter(|(c, _)| *c == "read") {
        for tail in ["; DELETE FROM t", " FOR UPDATE", " INTO u", ", nextval('s')", "; COMMIT"] {
            // In a comment to the end of the line it is no statement.
            let whole = format!("{text}\n{tail}");
            let got = classify(whole.as_bytes(), reading).class;
            assert_eq!(got, Class::Other, "{class}: {whole}");
        }
    }
}

#[test]
fn any_bytes_can_be_read() {
    let functions = functions();
    let reading = Reading { selects: true, hints: true, functions: &functions };
    for (_, text) in corpus() {
        for cut in 0..text.len() {
            let _ = classify(text.as_bytes().get(cut..).unwrap_or_default(), reading);
            let _ = classify(text.as_bytes().get(..cut).unwrap_or_default(), reading);
        }
    }
    assert_eq!(classify(&vec![b' '; MAX_TEXT + 1], reading), Verdict::OTHER);
}

#[test]
fn hints_are_read_where_they_are_asked_for() {
    let on = Reading { hints: true, ..Reading::default() };
    for (text, hint) in [
        ("/* howdah: replica */ SELECT f()", Some(Hint::Replica)),
        ("  /*howdah:primary*/SELECT 1", Some(Hint::Primary)),
        ("SELECT 1 /* howdah: replica */", None),
        ("/* howdah: elsewhere */ SELECT 1", None),
        ("/* howdah: replica", None),
        ("-- howdah: replica\nSELECT 1", None),
        ("'/* howdah: replica */'", None),
    ] {
        assert_eq!(classify(text.as_bytes(), on).hint, hint, "{text}");
        assert_eq!(classify(text.as_bytes(), Reading::default()).hint, None, "{text}");
    }
}

#[test]
fn verdicts_can_be_kept_as_bits() {
    for class in Class::ALL {
        for hint in [None, Some(Hint::Primary), Some(Hint::Replica)] {
            let v = Verdict { class, hint };
            assert_eq!(Verdict::from_bits(v.to_bits()), Some(v));
        }
    }
    assert_eq!(Verdict::from_bits(0), None);
}
