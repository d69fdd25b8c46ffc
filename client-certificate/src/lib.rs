//! Certificates as credentials: taken out of their file, and shown to Entra by a signature.
//!
//! Where the file comes from and whose it is, is not known here.

mod assertion;
mod child;
mod pem;
mod pkcs12;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use assertion::{Assertion, Certificate};
pub use child::{Unpacker, unpack_for_parent};
pub use pkcs12::UnpackError;
