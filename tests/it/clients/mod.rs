//! Programs that speak PostgreSQL, through Howdah and directly: the same results.

mod differential;
mod drivers;
mod pool_init;
mod tokio_postgres;
