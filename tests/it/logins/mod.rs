//! Who gets in, and how.

mod access;
mod admission;
mod examples;
mod hostile;
#[cfg(feature = "ldap")]
mod ldap;
mod matrix;
mod methods;
#[cfg(feature = "pam")]
mod pam;
mod places;
