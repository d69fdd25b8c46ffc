//! The bytes of an answer: exactly what clients were measured to need, in one piece.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use api::TokenHash;
use api::node_api::{AuxiliaryToken, TokenResponse};

use super::error::{ErrorReply, quoted};

/// A token, or the tokens of an identity of several tenants, whose body is rendered but for the
/// seconds that it still lives.
pub struct CachedToken {
    /// The token of the identity's own tenant comes first.
    tokens: Vec<Rendered>,
    lifetime: Duration,
}

/// One token.
struct Rendered {
    /// From the opening brace to `expires_in`'s opening quote.
    head: String,
    /// From `expires_in`'s closing quote to `ext_expires_in`'s opening one.
    middle: String,
    /// The rest.
    tail: String,
    hash: TokenHash,
    /// How many seconds it lives longer than the one that expires first.
    longer: u64,
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
    /// Renders what the agent answered.
    pub fn new(token: &TokenResponse) -> Self {
        let life = |expires_on: u64| {
            let longer = expires_on.saturating_sub(token.expires_on);
            let shorter = token.expires_on.saturating_sub(expires_on);
            token.expires_in.saturating_add(longer).saturating_sub(shorter)
        };
        let auxiliary = token.auxiliary.iter().map(|auxiliary| auxiliary.expires_on);
        let first = auxiliary.map(life).fold(token.expires_in, u64::min);
        let own = AuxiliaryToken {
            access_token: token.access_token.clone(),
            expires_on: token.expires_on,
            not_before: token.not_before,
        };
        let tokens = std::iter::once(&own).chain(&token.auxiliary);
        let tokens = tokens.map(|one| Rendered::new(one, token, life(one.expires_on) - first));
        Self { tokens: tokens.collect(), lifetime: Duration::from_secs(first) }
    }

    /// How long it lived when it came; of several tokens, the one that expires first.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The hash of the token; of several, that of the first.
    pub fn hash(&self) -> Option<TokenHash> {
        self.tokens.first().map(|token| token.hash)
    }

    /// Whether this is, or holds, the token with this hash.
    pub fn has(&self, hash: TokenHash) -> bool {
        self.tokens.iter().any(|token| token.hash == hash)
    }

    /// The parts of the body, one after the other.
    fn parts(&self, remaining: Duration, mut part: impl FnMut(&str)) {
        let several = self.tokens.len() > 1;
        if several {
            part("[");
        }
        for (number, token) in self.tokens.iter().enumerate() {
            if number > 0 {
                part(",");
            }
            let seconds = remaining.as_secs().saturating_add(token.longer).to_string();
            for text in [&token.head, &seconds, &token.middle, &seconds, &token.tail] {
                part(text);
            }
        }
        if several {
            part("]");
        }
    }
}

// === impl Rendered ===

impl Rendered {
    /// All values are strings, and no field that a client chokes on is there (`refresh_in`, an
    /// empty `ext_expires_in`).
    fn new(token: &AuxiliaryToken, of: &TokenResponse, longer: u64) -> Self {
        Self {
            head: format!(
                r#"{{"access_token":{},"client_id":{},"expires_in":""#,
                quoted(&token.access_token),
                quoted(&of.client_id),
            ),
            middle: format!(r#"","expires_on":"{}","ext_expires_in":""#, token.expires_on),
            tail: format!(
                r#"","not_before":"{}","resource":{},"token_type":"Bearer"}}"#,
                token.not_before,
                quoted(&of.resource),
            ),
            hash: TokenHash::of(&token.access_token),
            longer,
        }
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
        let mut length = 0;
        self.parts(|part| length += part.len());
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
            self.parts(|part| out.extend_from_slice(part.as_bytes()));
        }
    }

    fn parts(&self, mut part: impl FnMut(&str)) {
        match self {
            Self::Token(token, remaining) => token.parts(*remaining, part),
            Self::Error(error) => part(&error.body),
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

    fn response() -> TokenResponse {
        TokenResponse {
            access_token: "sec\"ret".to_owned(),
            token_type: "Bearer".to_owned(),
            resource: "https://vault.azure.net/".to_owned(),
            client_id: "aaaaaaaa-1111-2222-3333-444444444444".to_owned(),
            expires_on: 1_795_415_462,
            not_before: 1_795_329_062,
            expires_in: 86_399,
            assertion_wanted: false,
            auxiliary: Vec::new(),
        }
    }

    fn token() -> Arc<CachedToken> {
        Arc::new(CachedToken::new(&response()))
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
    fn tokens_of_several_tenants_are_an_array_and_live_as_long_as_the_shortest() {
        let auxiliary = |text: &str, expires_on| AuxiliaryToken {
            access_token: text.to_owned(),
            expires_on,
            not_before: 7,
        };
        let own = response();
        let shorter = auxiliary("two", own.expires_on - 86_000);
        let longer = auxiliary("three", own.expires_on + 10);
        let several = TokenResponse { auxiliary: vec![shorter, longer], ..own };
        let token = CachedToken::new(&several);
        assert_eq!(token.lifetime(), Duration::from_secs(399));
        assert!(token.has(TokenHash::of("three")) && !token.has(TokenHash::of("four")));

        let reply = Reply::Token(Arc::new(token), Duration::from_secs(300));
        let answer = text(&reply, Connection::KeepAlive, Content::Whole);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let rows = [("sec\"ret", "86300"), ("two", "300"), ("three", "86310")];
        assert_eq!(body.as_array().unwrap().len(), rows.len());
        for (number, (access_token, expires_in)) in rows.into_iter().enumerate() {
            let one = &body[number];
            assert_eq!(one.as_object().unwrap().len(), 8, "{one}");
            assert_eq!(one["access_token"], access_token);
            assert_eq!(one["expires_in"], expires_in);
            assert_eq!(one["ext_expires_in"], expires_in);
            assert_eq!(one["resource"], "https://vault.azure.net/");
        }
        assert_eq!(body[1]["not_before"], "7");
    }

    #[test]
    fn a_token_of_another_tenant_that_is_dead_makes_the_whole_answer_dead() {
        let dead = AuxiliaryToken { access_token: "x".to_owned(), expires_on: 5, not_before: 0 };
        let token = CachedToken::new(&TokenResponse { auxiliary: vec![dead], ..response() });
        assert_eq!(token.lifetime(), Duration::ZERO);
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
