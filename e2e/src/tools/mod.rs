//! Gets the programs that the cluster is made of: some from Debian, the others built from source.

pub mod control_plane;
pub mod debian;
