//! Admission warnings: what `kubectl` prints under the command that created the pod.

/// Longer ones may be cut by the API server.
const MAX_CHARS: usize = 120;
/// The API server drops the rest once all webhooks together have written 4096 characters.
const MAX_COUNT: usize = 16;

/// Warnings in the order they were given, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings(Vec<String>);

// === impl Warnings ===

impl Warnings {
    /// Adds a warning, cut to what the API server shows.
    pub fn push(&mut self, text: impl Into<String>) {
        let text = clip(text.into());
        if self.0.len() < MAX_COUNT && !self.0.contains(&text) {
            self.0.push(text);
        }
    }

    /// The warnings.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

fn clip(text: String) -> String {
    if text.chars().count() <= MAX_CHARS {
        return text;
    }
    let mut clipped: String = text.chars().take(MAX_CHARS - 1).collect();
    clipped.push('…');
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_short_few_and_different() {
        let mut warnings = Warnings::default();
        warnings.push("é".repeat(500));
        warnings.push("same");
        warnings.push("same");
        assert_eq!(warnings.as_slice()[0].chars().count(), MAX_CHARS);
        assert_eq!(warnings.as_slice().len(), 2);
        for n in 0..100 {
            warnings.push(n.to_string());
        }
        assert_eq!(warnings.as_slice().len(), MAX_COUNT);
    }
}
