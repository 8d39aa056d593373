//! Programs that speak PostgreSQL, through Howdah and directly: the same results.

mod differential;
mod drivers;
mod tokio_postgres;
