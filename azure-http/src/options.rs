//! The library's options for one authority.

use std::sync::Arc;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::http::{ClientOptions, RetryOptions, Transport};

use crate::readable::ReadableErrors;

/// Options for a credential whose tokens are issued at `authority_host`, an https URL.
pub fn client_options(
    authority_host: &str,
    transport: &Transport,
    retry: RetryOptions,
) -> ClientOptions {
    let mut custom = CustomConfiguration::default();
    authority_host.clone_into(&mut custom.authority_host);
    ClientOptions {
        // Of all clouds: ours is the one table of endpoints, and AZURE_AUTHORITY_HOST is not read.
        cloud: Some(Arc::new(CloudConfiguration::Custom(custom))),
        transport: Some(transport.clone()),
        per_try_policies: vec![Arc::new(ReadableErrors)],
        retry,
        ..ClientOptions::default()
    }
}
