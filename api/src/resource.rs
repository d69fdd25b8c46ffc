//! What may stand for a resource: the audience of a token, as applications name it.

/// In bytes.
const LONGEST: usize = 512;

/// Whether `text` may be a resource: 1 to 512 printable ASCII characters. A space would make two
/// scopes of it at Entra.
pub fn is_resource(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_short_printable_and_without_spaces() {
        let longest = "r".repeat(LONGEST);
        for good in ["r", "https://vault.azure.net", "api://x/", "urn:x", longest.as_str()] {
            assert!(is_resource(good), "{good}");
        }
        let long = "r".repeat(LONGEST + 1);
        for bad in ["", " ", "a b", "a\n", "ä", "a\u{7f}", long.as_str()] {
            assert!(!is_resource(bad), "{bad:?}");
        }
    }
}
