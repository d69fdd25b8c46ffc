//! Shows which of the controller's own credential files cannot be taken over.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use runtime::Metrics;

/// What a file is.
#[derive(Clone, Copy, Debug)]
pub(super) enum CredentialFile {
    CloudConfig,
    Secret,
    Certificate,
}

/// For each file 1 while the credential in use is not the file's; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Reloads(Family<Labels, Gauge>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    file: &'static str,
}

// === impl Reloads ===

impl Reloads {
    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.register(|r| {
            r.register(
                "credential_reload_failing",
                "1 while the file of the controller's own credential cannot be used",
                self.0.clone(),
            );
        });
    }

    /// The gauge of one file.
    pub(super) fn of(&self, file: CredentialFile) -> Gauge {
        let file = match file {
            CredentialFile::CloudConfig => "cloud_config",
            CredentialFile::Secret => "secret",
            CredentialFile::Certificate => "certificate",
        };
        self.0.get_or_create(&Labels { file }).clone()
    }
}
