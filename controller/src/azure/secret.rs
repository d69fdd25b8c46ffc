//! A secret of the controller's own: given, or in a file that may change.

use std::io::ErrorKind;
use std::path::PathBuf;

use azure_core::credentials::Secret;

use super::{AzureError, file};

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretSource {
    /// Here; not shown by `Debug`.
    Given(Secret),
    /// In the file. Line ends at its end are an editor's, and not part of the secret.
    File(PathBuf),
}

// === impl SecretSource ===

impl SecretSource {
    /// The secret as it is now.
    pub(super) fn read(&self) -> Result<Secret, AzureError> {
        let secret = self.text()?;
        match self {
            Self::File(path) if secret.secret().trim().is_empty() => {
                Err(AzureError::Empty { path: path.clone() })
            }
            Self::Given(_) | Self::File(_) => Ok(secret),
        }
    }

    /// A password as it is now. No file is no password: not every certificate's file has one.
    pub(super) fn read_password(&self) -> Result<Secret, AzureError> {
        match self.text() {
            Err(AzureError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(Secret::new(""))
            }
            other => other,
        }
    }

    fn text(&self) -> Result<Secret, AzureError> {
        let path = match self {
            Self::Given(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        // The error would hold what was read.
        let text = String::from_utf8(file::read(path)?)
            .map_err(|_| AzureError::NotText { path: path.clone() })?;
        Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, SecretSource) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let source = SecretSource::File(file.path().to_owned());
        (file, source)
    }

    #[test]
    fn line_ends_at_the_end_are_not_part_of_it() {
        for (content, secret) in [
            ("p4ss w0rd", "p4ss w0rd"),
            ("p4ss\n", "p4ss"),
            ("p4ss\r\n\n", "p4ss"),
            (" p4\nss ", " p4\nss "),
        ] {
            let (_file, source) = file(content.as_bytes());
            assert_eq!(source.read().unwrap().secret(), secret, "{content:?}");
            assert_eq!(source.read_password().unwrap().secret(), secret, "{content:?}");
        }
    }

    #[test]
    fn what_is_no_secret_is_told_with_the_file_and_without_its_content() {
        for (content, words) in
            [(&b""[..], "is empty"), (b" \r\n", "is empty"), (b"p4ss\xff", "is not UTF-8")]
        {
            let (file, source) = file(content);
            let error = source.read().unwrap_err();
            let path = file.path().display().to_string();
            assert!(error.to_string().contains(&path), "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!format!("{error:?}").contains("p4ss"), "{error:?}");
        }
        let gone = SecretSource::File("/nonexistent/secret".into());
        assert_eq!(gone.read().unwrap_err().to_string(), "cannot read /nonexistent/secret");
    }

    #[test]
    fn a_password_need_not_be_there() {
        let gone = SecretSource::File("/nonexistent/password".into());
        assert_eq!(gone.read_password().unwrap().secret(), "");
        assert_eq!(file(b"\n").1.read_password().unwrap().secret(), "");
        let folder = SecretSource::File("/".into());
        assert!(folder.read_password().is_err());
    }
}
