//! The PostgreSQL protocol, without input or output: frames, owed replies, statements, parameters, and what
//! Howdah itself says.

pub mod encode;
pub mod frame;
pub mod holdings;
pub mod params;
pub mod pipeline;
pub mod prepared;
pub mod session;
pub mod sql;
pub mod startup;
