//! The one crypto provider of the process.

/// Makes aws-lc-rs the provider of every TLS configuration. To be called first in `main`: a
/// configuration that is built before would panic. Calling it twice is harmless.
pub fn install_provider() {
    // The error only says that a provider is installed already, and there is only this one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
