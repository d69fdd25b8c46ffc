//! The kernel's table of this namespace's TCP connections.

use std::fs;
use std::io;
use std::net::SocketAddrV4;

/// Whether a connection has these two ends, seen from `local`'s side.
pub(crate) fn exists(local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<bool> {
    Ok(lists(&fs::read_to_string("/proc/thread-self/net/tcp")?, local, remote))
}

/// Columns two and three are the ends.
fn lists(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> bool {
    let ends = [in_hex(local), in_hex(remote)];
    table
        .lines()
        .any(|line| line.split_whitespace().skip(1).take(2).eq(ends.iter().map(String::as_str)))
}

/// The kernel prints the address's four bytes as one number of the machine's byte order.
fn in_hex(end: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(end.ip().octets()), end.port())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
        address
    }

    #[test]
    fn a_connection_is_found_by_both_of_its_ends() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = v4(listener.local_addr().unwrap());
        let client = TcpStream::connect(server).unwrap();
        let client = v4(client.local_addr().unwrap());

        assert!(exists(server, client).unwrap());
        assert!(exists(client, server).unwrap());
        assert!(
            !exists(server, SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), client.port())).unwrap()
        );
        assert!(!exists(server, server).unwrap());
    }
}
