//! The bytes of an answer: exactly what clients were measured to need, in one piece.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use api::node_api::TokenResponse;

use super::error::{ErrorReply, quoted};

/// A token whose body is rendered but for the seconds that it still lives.
pub struct CachedToken {
    /// From the opening brace to `expires_in`'s opening quote.
    head: String,
    /// From `expires_in`'s closing quote to `ext_expires_in`'s opening one.
    middle: String,
    /// The rest.
    tail: String,
}

/// What a request is answered.
#[derive(Debug)]
pub enum Reply {
    /// A token that lives so long.
    Token(Arc<CachedToken>, Duration),
    /// An error.
    Error(ErrorReply),
}

/// How an answer is framed.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What happens to the connection afterwards.
    pub connection: Connection,
    /// Whether the body is sent.
    pub content: Content,
    /// The present time as an HTTP date.
    pub date: &'a str,
}

/// What happens to the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It stays open.
    KeepAlive,
    /// It is closed.
    Close,
}

/// Whether the body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It is.
    Whole,
    /// Only its length: the answer to HEAD.
    HeadOnly,
}

// === impl CachedToken ===

impl CachedToken {
    /// Renders a token. All values are strings, and no field that a client chokes on is there
    /// (`refresh_in`, an empty `ext_expires_in`).
    pub fn new(token: &TokenResponse) -> Self {
        Self {
            head: format!(
                r#"{{"access_token":{},"client_id":{},"expires_in":""#,
                quoted(&token.access_token),
                quoted(&token.client_id),
            ),
            middle: format!(r#"","expires_on":"{}","ext_expires_in":""#, token.expires_on),
            tail: format!(
                r#"","not_before":"{}","resource":{},"token_type":"Bearer"}}"#,
                token.not_before,
                quoted(&token.resource),
            ),
        }
    }

    fn length(&self, seconds: &str) -> usize {
        self.head.len() + self.middle.len() + self.tail.len() + 2 * seconds.len()
    }
}

impl fmt::Debug for CachedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedToken").finish_non_exhaustive()
    }
}

// === impl Reply ===

impl Reply {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Token(..) => 200,
            Self::Error(error) => error.status,
        }
    }

    /// Appends the whole answer.
    pub fn write(&self, frame: Frame<'_>, out: &mut Vec<u8>) {
        let seconds = match self {
            Self::Token(_, remaining) => remaining.as_secs().to_string(),
            Self::Error(_) => String::new(),
        };
        let length = match self {
            Self::Token(token, _) => token.length(&seconds),
            Self::Error(error) => error.body.len(),
        };
        out.reserve(length + 300);
        let line = status_line(self.status());
        // Writing to memory cannot fail.
        drop(write!(
            out,
            "HTTP/1.1 {line}\r\ncontent-type: application/json; charset=utf-8\r\n\
             content-length: {length}\r\ncache-control: no-store\r\ndate: {}\r\n",
            frame.date
        ));
        if let Self::Error(error) = self {
            if error.status == 405 {
                out.extend_from_slice(b"allow: GET\r\n");
            }
            if let Some(seconds) = error.retry_after {
                drop(write!(out, "retry-after: {seconds}\r\n"));
            }
        }
        if frame.connection == Connection::Close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if frame.content == Content::Whole {
            self.write_body(&seconds, out);
        }
    }

    fn write_body(&self, seconds: &str, out: &mut Vec<u8>) {
        match self {
            Self::Token(token, _) => {
                for part in [&token.head, seconds, &token.middle, seconds, &token.tail] {
                    out.extend_from_slice(part.as_bytes());
                }
            }
            Self::Error(error) => out.extend_from_slice(error.body.as_bytes()),
        }
    }
}

fn status_line(status: u16) -> &'static str {
    match status {
        200 => "200 OK",
        400 => "400 Bad Request",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        429 => "429 Too Many Requests",
        _ => "503 Service Unavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imds::ImdsError;

    const DATE: &str = "Mon, 24 Nov 2025 00:00:00 GMT";

    fn token() -> Arc<CachedToken> {
        Arc::new(CachedToken::new(&TokenResponse {
            access_token: "sec\"ret".to_owned(),
            token_type: "Bearer".to_owned(),
            resource: "https://vault.azure.net/".to_owned(),
            client_id: "aaaaaaaa-1111-2222-3333-444444444444".to_owned(),
            expires_on: 1_795_415_462,
            not_before: 1_795_329_062,
            expires_in: 86_399,
            assertion_wanted: false,
            auxiliary: Vec::new(),
        }))
    }

    fn text(reply: &Reply, connection: Connection, content: Content) -> String {
        let mut out = Vec::new();
        reply.write(Frame { connection, content, date: DATE }, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_token_is_eight_strings_in_the_order_of_the_service() {
        let reply = Reply::Token(token(), Duration::from_millis(59_999));
        let answer = text(&reply, Connection::KeepAlive, Content::Whole);
        let body = r#"{"access_token":"sec\"ret","client_id":"aaaaaaaa-1111-2222-3333-444444444444","expires_in":"59","expires_on":"1795415462","ext_expires_in":"59","not_before":"1795329062","resource":"https://vault.azure.net/","token_type":"Bearer"}"#;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\n\
             content-length: {}\r\ncache-control: no-store\r\ndate: {DATE}\r\n\r\n",
            body.len()
        );
        assert_eq!(answer, head + body);
        assert!(!format!("{reply:?}").contains("ret"), "Debug shows no token");
    }

    #[test]
    fn errors_carry_what_their_status_asks_for() {
        let reply = |error: ImdsError| Reply::Error(error.reply(None));
        let close = text(&reply(ImdsError::MethodNotAllowed), Connection::Close, Content::Whole);
        assert!(close.contains("\r\nallow: GET\r\n"), "{close}");
        assert!(close.contains("\r\nconnection: close\r\n"), "{close}");
        let down = ImdsError::Unavailable("x".to_owned());
        let down = text(&reply(down), Connection::KeepAlive, Content::Whole);
        assert!(down.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{down}");
        assert!(down.contains("\r\nretry-after: 1\r\n"), "{down}");
        let head = text(&reply(ImdsError::MethodNotAllowed), Connection::Close, Content::HeadOnly);
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
}
