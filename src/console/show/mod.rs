//! One function and one list of columns for each SHOW; [`super::table`] names them.

pub(super) mod clients;
pub(super) mod config;
pub(super) mod databases;
pub(super) mod internal;
pub(super) mod own;
pub(super) mod pools;
pub(super) mod routes;
pub(super) mod see;
pub(super) mod stats;
pub(super) mod users;
