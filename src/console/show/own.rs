//! What PgBouncer's console does not have.

use crate::console::rows::{Column, Row, big, row, text};
use crate::console::view::View;

pub(in crate::console) const PREPARED_STATEMENTS: &[Column] =
    &[text("database"), text("user"), big("clients"), big("prepared_statements"), big("most_of_one_client")];

/// Named statements that clients hold, by database and user.
pub(in crate::console) fn prepared_statements(view: &View) -> Vec<Row> {
    let mut by = std::collections::BTreeMap::new();
    for c in view.clients() {
        let n = u64::from(c.prepared());
        let of = by.entry((c.database.clone(), c.user.clone())).or_insert((0u64, 0u64, 0u64));
        of.0 += 1;
        of.1 += n;
        of.2 = of.2.max(n);
    }
    by.iter().map(|((d, u), (clients, all, most))| row![d, u, *clients, *all, *most]).collect()
}
