//! How servers spell the parameters that startup packets ask for: asked once, and known to later logins.

use std::collections::HashMap;

use parking_lot::Mutex;

/// A value as the server has it, and what it said to whoever asked for it: NoticeResponses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    pub value: Box<[u8]>,
    pub notices: Box<[u8]>,
}

/// Name, the value as a client wrote it, and what its login finds in force: `DateStyle = ISO` keeps the order of day
/// and month that the server has by default.
type Asked = (String, Box<[u8]>, Option<Box<[u8]>>);

/// Values are the clients' choice: a map that grew with them would be theirs to fill.
const KEPT: usize = 1024;

/// PostgreSQL cuts an application_name that is not shorter, and says so.
const NAME: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Spellings(Mutex<HashMap<Asked, Spelling>>);

fn key(name: &str, value: &[u8], base: Option<&[u8]>) -> Asked {
    (name.to_ascii_lowercase(), value.into(), base.map(Box::from))
}

impl Spellings {
    /// `None` when no server was asked. Only ASCII of an application_name comes back as it is, and that needs no
    /// asking.
    pub fn get(&self, name: &str, value: &[u8], base: Option<&[u8]>) -> Option<Spelling> {
        if name.eq_ignore_ascii_case("application_name")
            && value.len() < NAME
            && value.iter().all(|b| (32..127).contains(b))
        {
            return Some(Spelling { value: value.into(), notices: Box::default() });
        }
        self.0.lock().get(&key(name, value, base)).cloned()
    }

    pub fn learn(&self, name: &str, value: &[u8], base: Option<&[u8]>, spelling: Spelling) {
        let mut map = self.0.lock();
        if map.len() >= KEPT {
            map.clear();
        }
        map.insert(key(name, value, base), spelling);
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelling(value: &str) -> Spelling {
        Spelling { value: value.as_bytes().into(), notices: Box::default() }
    }

    #[test]
    fn a_relative_value_is_known_for_what_it_is_relative_to() {
        let all = Spellings::default();
        all.learn("DateStyle", b"ISO", Some(b"SQL, DMY"), spelling("ISO, DMY"));
        assert_eq!(all.get("datestyle", b"ISO", Some(b"SQL, DMY")), Some(spelling("ISO, DMY")));
        assert_eq!(all.get("datestyle", b"ISO", Some(b"ISO, MDY")), None);
        assert_eq!(all.get("datestyle", b"ISO", None), None);
    }

    #[test]
    fn short_names_of_applications_need_no_asking() {
        let all = Spellings::default();
        assert_eq!(all.get("application_name", b"shop", None), Some(spelling("shop")));
        assert_eq!(all.get("application_name", "sh\u{f6}p".as_bytes(), None), None);
        assert_eq!(all.get("application_name", &[b'x'; NAME], None), None);
    }

    #[test]
    fn clients_cannot_fill_it() {
        let all = Spellings::default();
        for n in 0..3 * KEPT {
            all.learn("search_path", n.to_string().as_bytes(), None, spelling("x"));
            assert!(all.0.lock().len() <= KEPT);
        }
    }
}
