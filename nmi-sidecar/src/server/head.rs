//! The head of a request: where it ends, and what it says. Pure. What two parsers could read in two
//! ways is refused here.

use httparse::{EMPTY_HEADER, Header, Status};

use crate::imds::{Connection, Content, Hosts, ImdsError, TokenRequest, parse};

const LONGEST_TARGET: usize = 8 * 1024;
const MOST_HEADERS: usize = 64;

/// Finds the end of a head in bytes that arrive piece by piece.
#[derive(Debug, Default)]
pub(super) struct Scan {
    seen: usize,
}

/// What has arrived so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The head is not complete.
    Partial,
    /// The head is this many bytes long.
    Complete(usize),
    /// A line ends without a carriage return.
    Malformed,
}

/// What a request asks for, and how its answer is framed.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) request: Result<TokenRequest, ImdsError>,
    pub(super) connection: Connection,
    pub(super) content: Content,
}

// === impl Scan ===

impl Scan {
    /// Looks at the bytes that came since the last call.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Progress {
        while let Some(found) = bytes[self.seen..].iter().position(|byte| *byte == b'\n') {
            let end = self.seen + found + 1;
            self.seen = end;
            let line = &bytes[..end];
            if !line.ends_with(b"\r\n") {
                return Progress::Malformed;
            }
            if line.ends_with(b"\r\n\r\n") {
                return Progress::Complete(end);
            }
        }
        self.seen = bytes.len();
        Progress::Partial
    }
}

// === impl Verdict ===

impl Verdict {
    /// A request that cannot be read: what follows it on the connection cannot be either.
    pub(super) fn malformed(text: &'static str) -> Self {
        Self {
            request: Err(ImdsError::Malformed(text)),
            connection: Connection::Close,
            content: Content::Whole,
        }
    }

    /// Judges a complete head.
    pub(super) fn of(head: &[u8], hosts: &Hosts) -> Self {
        let mut headers = [EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Self::malformed("The request head is not HTTP/1.1"),
            Err(httparse::Error::TooManyHeaders) => {
                return Self::malformed("The request has too many headers");
            }
            Err(_) => return Self::malformed("The request head is not HTTP/1.1"),
        }
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Self::malformed("The request head is not HTTP/1.1");
        };
        if target.len() > LONGEST_TARGET {
            return Self::malformed("The request target is too long");
        }
        let body = Body::announced(request.headers);
        let asked = parse(method, target, request.headers, hosts);
        let request_result = match body {
            Body::Malformed => {
                Err(ImdsError::Malformed("The request says twice how long its body is"))
            }
            // A wrong path is a wrong path whatever comes with it: clients tell services apart by it.
            Body::Some if asked.is_ok() => Err(ImdsError::Malformed("A token request has no body")),
            _ => asked,
        };
        let stays =
            body == Body::None && request.version == Some(1) && !wants_close(request.headers);
        Self {
            request: request_result,
            connection: if stays { Connection::KeepAlive } else { Connection::Close },
            content: if method == "HEAD" { Content::HeadOnly } else { Content::Whole },
        }
    }
}

/// What a head says about a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    None,
    Some,
    Malformed,
}

impl Body {
    fn announced(headers: &[Header<'_>]) -> Self {
        let count = |name: &str| named(headers, name).count();
        match (count("content-length"), count("transfer-encoding")) {
            (0, 0) => Self::None,
            (1, 0) => match named(headers, "content-length").next() {
                Some(b"0") => Self::None,
                Some(digits) if digits.iter().all(u8::is_ascii_digit) && !digits.is_empty() => {
                    Self::Some
                }
                _ => Self::Malformed,
            },
            (0, 1) => Self::Some,
            _ => Self::Malformed,
        }
    }
}

fn wants_close(headers: &[Header<'_>]) -> bool {
    named(headers, "connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn named<'a>(headers: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r";

    fn verdict(line: &str, headers: &[&str]) -> Verdict {
        let mut head = format!("{line}\r\nHost: 169.254.169.254\r\nMetadata: true\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        Verdict::of(head.as_bytes(), &Hosts::with(Vec::new()))
    }

    fn get(headers: &[&str]) -> Verdict {
        verdict(&format!("GET {TOKEN} HTTP/1.1"), headers)
    }

    fn is_malformed(verdict: &Verdict) -> bool {
        matches!(verdict.request, Err(ImdsError::Malformed(_)))
            && verdict.connection == Connection::Close
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_is_cut() {
        let bytes = b"GET / HTTP/1.1\r\nA: b\r\n\r\nGET";
        for cut in 0..bytes.len() {
            let mut scan = Scan::default();
            let first = scan.advance(&bytes[..cut]);
            if cut < 24 {
                assert_eq!(first, Progress::Partial, "{cut}");
                assert_eq!(scan.advance(bytes), Progress::Complete(24), "{cut}");
            } else {
                assert_eq!(first, Progress::Complete(24), "{cut}");
            }
        }
    }

    #[test]
    fn a_bare_line_feed_is_refused_as_soon_as_it_comes() {
        for bytes in [&b"GET / HTTP/1.1\n"[..], b"\n", b"GET / HTTP/1.1\r\nA: b\n\r\n"] {
            assert_eq!(Scan::default().advance(bytes), Progress::Malformed);
        }
    }

    #[test]
    fn connections_stay_open_unless_the_request_says_otherwise() {
        assert_eq!(get(&[]).connection, Connection::KeepAlive);
        assert_eq!(get(&["Connection: keep-alive"]).connection, Connection::KeepAlive);
        assert_eq!(get(&["Content-Length: 0"]).connection, Connection::KeepAlive);
        for header in ["Connection: close", "connection: Keep-Alive, Close"] {
            let verdict = get(&[header]);
            assert_eq!(verdict.connection, Connection::Close, "{header}");
            assert!(verdict.request.is_ok());
        }
        let old = verdict(&format!("GET {TOKEN} HTTP/1.0"), &[]);
        assert_eq!(old.connection, Connection::Close);
        assert!(old.request.is_ok());
    }

    #[test]
    fn a_body_is_no_part_of_a_token_request() {
        for header in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
            assert!(is_malformed(&get(&[header])), "{header}");
            // Another path is another path, and what follows is not read as a request.
            let other = verdict("POST /metadata/identity/issuecredential HTTP/1.1", &[header]);
            assert_eq!(other.request.unwrap_err(), ImdsError::NotFound);
            assert_eq!(other.connection, Connection::Close);
        }
    }

    #[test]
    fn two_framings_or_a_broken_one_are_refused() {
        let rows: [&[&str]; 7] = [
            &["Content-Length: 5", "Transfer-Encoding: chunked"],
            &["Transfer-Encoding: chunked", "Content-Length: 0"],
            &["Content-Length: 5", "Content-Length: 5"],
            &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            &["Content-Length: +5"],
            &["Content-Length: 5,5"],
            &["Content-Length:"],
        ];
        for headers in rows {
            assert!(is_malformed(&get(headers)), "{headers:?}");
        }
    }

    #[test]
    fn heads_that_are_not_http_1_are_refused() {
        for line in [
            "GET /\tx HTTP/1.1",
            "GET /\0 HTTP/1.1",
            "GET / HTTP/2.0",
            "GET  / HTTP/1.1",
            "GET /",
            "PRI * HTTP/2.0",
            "GET / x HTTP/1.1",
        ] {
            assert!(is_malformed(&verdict(line, &[])), "{line:?}");
        }
        for header in ["metadata : true", " folded", "\tfolded", ": x", "A: \0", "A: b\rC: d"] {
            assert!(is_malformed(&get(&[header])), "{header:?}");
        }
        let many = vec!["A: b"; 70];
        assert!(is_malformed(&get(&many)));
        let long = format!("GET {TOKEN}&x={} HTTP/1.1", "x".repeat(LONGEST_TARGET));
        assert!(is_malformed(&verdict(&long, &[])));
    }

    #[test]
    fn the_answer_to_head_has_no_body() {
        assert_eq!(verdict("HEAD / HTTP/1.1", &[]).content, Content::HeadOnly);
        assert_eq!(get(&[]).content, Content::Whole);
    }
}
