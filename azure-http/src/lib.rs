//! How our processes reach Entra and ARM: whom they trust, and what the library is told about it.
//! Knows no identities and no secrets.

mod options;
mod readable;
mod transport;

pub use options::client_options;
pub use transport::{TransportError, transport};
