//! How long an HTTP answer is. Pure.

use anyhow::{Context, Result, ensure};

/// Length of head and body together, as soon as the head is complete. Anything but a 200 with a
/// content length is an error.
pub(super) fn length(received: &[u8]) -> Result<Option<usize>> {
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..end]).context("the answer's head is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(
        status.starts_with("HTTP/1.1 200 "),
        "the server answered {status:?}: {}",
        String::from_utf8_lossy(&received[end..]).trim()
    );
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .context("the answer does not say how long it is")?;
    Ok(Some(end + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_known_with_the_head() {
        let answer = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length:  5\r\n\r\nhello";
        for cut in 0..answer.len() - 5 {
            assert_eq!(length(&answer[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(length(&answer[..answer.len() - 3]).unwrap(), Some(answer.len()));
        assert_eq!(length(answer).unwrap(), Some(answer.len()));
    }

    #[test]
    fn anything_but_a_whole_success_is_an_error() {
        for (answer, expected) in [
            ("HTTP/1.1 429 Slow\r\ncontent-length: 2\r\n\r\nno", "429 Slow\": no"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "how long it is"),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "how long it is"),
        ] {
            let error = length(answer.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
