//! A fake Azure: the metadata service, Entra's token endpoint, the resource manager and key vaults
//! over one world, with faults on demand and a journal that tests read.
//!
//! Start it in a test with [`FakeAzure::start`] and [`Config::local`], or run the binary. What it
//! answers follows the documented services; where those are silent it is the stricter or the more
//! treacherous of the possibilities, so that mistakes of its callers show.

mod address;
mod arm;
mod arm_error;
mod arm_id;
mod arm_request;
mod arm_resource;
mod assertion;
mod azure;
mod clock;
mod config;
mod control;
mod entra;
mod entra_discovery;
mod entra_error;
mod fault_desk;
mod fault_rule;
pub mod faults;
mod files;
mod guid;
pub mod host;
mod identity_patch;
mod imds;
mod imds_error;
mod imds_limit;
mod imds_request;
mod imds_stats;
pub mod journal;
mod jwt;
pub mod key_vault;
mod listener;
mod merge;
mod operations;
pub mod principal;
mod reply;
pub mod seed;
mod server;
mod store;
mod tls;
mod tokens;
mod vault;
mod vault_error;
pub mod world;

pub use address::{AddressRange, AddressRangeError};
pub use arm_id::{ArmId, ArmIdError, ResourceKind};
pub use config::Config;
pub use guid::{Guid, GuidError};
pub use jwt::JwtError;
pub use server::{Addresses, FakeAzure, StartError};
pub use store::StoreError;
pub use tls::TlsError;
pub use tokens::{Claims, SignerError, decode_claims};
