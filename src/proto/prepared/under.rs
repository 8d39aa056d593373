//! Where a text has its meaning.

/// What gives the names in a text their meaning: the database and the login, the role, and the `search_path`, each where
/// it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Under<'a> {
    pub database: &'a str,
    pub user: &'a str,
    pub role: Option<&'a [u8]>,
    pub search_path: Option<&'a [u8]>,
}

impl Under<'_> {
    fn parts(&self) -> [&[u8]; 6] {
        let told = |v: Option<&[u8]>| if v.is_some() { b"1".as_slice() } else { b"0" };
        [
            self.database.as_bytes(),
            self.user.as_bytes(),
            told(self.role),
            self.role.unwrap_or_default(),
            told(self.search_path),
            self.search_path.unwrap_or_default(),
        ]
    }

    /// What it takes, without what parts it.
    pub(super) fn bytes(&self) -> usize {
        let values = [self.role, self.search_path].into_iter().flatten().map(<[u8]>::len);
        self.database.len() + self.user.len() + values.sum::<usize>()
    }

    /// In one piece, for a statement to keep: no name and no value has a zero byte.
    pub(super) fn kept(&self) -> Box<[u8]> {
        self.parts().join(&0).into()
    }

    pub(super) fn is(&self, kept: &[u8]) -> bool {
        let mut rest = kept.split(|b| *b == 0);
        self.parts().into_iter().all(|part| rest.next() == Some(part))
    }
}
