//! Certificates as credentials: taken out of their PKCS#12 file, and shown to Entra by a signature.

mod assertion;
mod child;
mod pkcs12;

pub(super) use assertion::{Assertion, Certificate};
pub(super) use child::Unpacker;
pub(crate) use child::unpack_for_parent;
pub(super) use pkcs12::UnpackError;
#[cfg(test)]
pub(super) use pkcs12::testing;
