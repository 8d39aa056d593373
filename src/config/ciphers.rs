//! OpenSSL's language for lists of cipher suites (`openssl-ciphers(1)`), in which a `pgbouncer.ini` may state those of TLS
//! 1.2: as far as it says something of the six that there are here.

/// A suite's name, and the words that stand for it among others.
struct Suite {
    name: &'static str,
    words: &'static [&'static str],
}

/// Words that stand for every suite that is spoken here.
const OF_ALL: &[&str] =
    &["ALL", "all", "DEFAULT", "HIGH", "TLSv1.2", "ECDHE", "EECDH", "kECDHE", "kEECDH", "FIPS"];

const SUITES: &[Suite] = &[
    Suite {
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        words: &["ECDSA", "aECDSA", "AES", "AESGCM", "AES256", "SUITEB128", "SUITEB192"],
    },
    Suite {
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        words: &["ECDSA", "aECDSA", "AES", "AESGCM", "AES128", "SUITEB128", "SUITEB128ONLY"],
    },
    Suite { name: "ECDHE-ECDSA-CHACHA20-POLY1305", words: &["ECDSA", "aECDSA", "CHACHA20"] },
    Suite { name: "ECDHE-RSA-AES256-GCM-SHA384", words: &["aRSA", "AES", "AESGCM", "AES256"] },
    Suite { name: "ECDHE-RSA-AES128-GCM-SHA256", words: &["aRSA", "AES", "AESGCM", "AES128"] },
    Suite { name: "ECDHE-RSA-CHACHA20-POLY1305", words: &["aRSA", "CHACHA20"] },
];

/// What a list comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub suites: Vec<&'static str>,
    /// It lists names of suites that there are, and nothing else.
    pub plain: bool,
}

/// Reads a list. A word that stands for nothing here is passed over, as OpenSSL passes over what it does not know.
pub(super) fn read(list: &str) -> Reading {
    let words = list.split([':', ',', ';', ' ']).map(str::trim).filter(|w| !w.is_empty());
    let (mut chosen, mut barred): (Vec<&'static str>, Vec<&'static str>) = (Vec::new(), Vec::new());
    let mut plain = true;
    for word in words {
        plain &= SUITES.iter().any(|s| s.name == word);
        let (sign, of) = match word.chars().next() {
            Some(c @ ('!' | '-' | '+')) => (c, word.get(1..).unwrap_or_default()),
            _ => (' ', word),
        };
        let meant: Vec<&'static str> = SUITES.iter().filter(|s| stands_for(of, s)).map(|s| s.name).collect();
        match sign {
            '!' => {
                chosen.retain(|s| !meant.contains(s));
                barred.extend(meant);
            }
            '-' => chosen.retain(|s| !meant.contains(s)),
            // Those that are in the list already go to its end.
            '+' => chosen.sort_by_key(|s| meant.contains(s)),
            _ => {
                for s in meant {
                    if !chosen.contains(&s) && !barred.contains(&s) {
                        chosen.push(s);
                    }
                }
            }
        }
    }
    Reading { suites: chosen, plain }
}

/// Whether all parts of a term, which a plus joins, stand for this suite.
fn stands_for(term: &str, suite: &Suite) -> bool {
    term.split('+').all(|w| suite.name == w || OF_ALL.contains(&w) || suite.words.contains(&w))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 6] = [
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ];

    /// The answers of `openssl ciphers -tls1_2 LIST`, as far as they are among the six.
    #[test]
    fn lists_come_to_what_they_come_to_with_openssl() {
        let of = |at: &[usize]| at.iter().map(|n| ALL[*n]).collect::<Vec<_>>();
        for (list, expected) in [
            ("HIGH:MEDIUM:+3DES:!aNULL", of(&[0, 1, 2, 3, 4, 5])),
            ("HIGH:!aNULL", of(&[0, 1, 2, 3, 4, 5])),
            ("ECDHE+AESGCM", of(&[0, 1, 3, 4])),
            ("ECDHE+AESGCM:ECDHE+CHACHA20", of(&[0, 1, 3, 4, 2, 5])),
            ("EECDH+aRSA+AES256:!MD5", of(&[3])),
            ("ALL:!ECDSA:-AES128", of(&[3, 5])),
            ("ALL:-AES:AES128", of(&[2, 5, 1, 4])),
            ("ALL:!CHACHA20:CHACHA20", of(&[0, 1, 3, 4])),
            ("HIGH:+ECDSA:@STRENGTH", of(&[3, 4, 5, 0, 1, 2])),
            ("DHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256", of(&[4])),
            ("ECDHE-RSA-AES128-GCM-SHA256,ECDHE-RSA-AES256-GCM-SHA384", of(&[4, 3])),
            // `RSA` is the key exchange, which the six do not have; their MAC is no SHA256.
            ("RSA:SHA256:DHE+AES:aNULL:3DES", vec![]),
            ("unknown", vec![]),
        ] {
            assert_eq!(read(list).suites, expected, "{list}");
        }
        assert!(read("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384").plain);
        assert!(!read("HIGH").plain && !read("ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384").plain);
    }
}
