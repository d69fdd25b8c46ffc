//! Keeps the kernel settings that kubelet changes for the whole machine, to put them back later.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::files::{self, Access};

/// kubelet sets these and offers no way to leave them alone.
const CHANGED_BY_KUBELET: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Writes down the present values, unless that was done already.
pub fn save(file: &Path) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    let value = |name: &&str| Some(((*name).to_owned(), read(name)?));
    let values: BTreeMap<String, String> = CHANGED_BY_KUBELET.iter().filter_map(value).collect();
    files::write(file, serde_json::to_vec_pretty(&values)?, Access::Public)
}

/// Puts back the values that were written down.
pub fn restore(file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let values: BTreeMap<String, String> =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?;
    for (name, value) in values {
        let known = CHANGED_BY_KUBELET.contains(&name.as_str());
        if known && read(&name).is_some_and(|present| present != value) {
            fs::write(format!("/proc/sys/{name}"), value)
                .with_context(|| format!("cannot restore the kernel setting {name}"))?;
        }
    }
    Ok(())
}

fn read(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_are_kept_and_foreign_names_are_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sysctls.json");
        restore(&file).unwrap();
        fs::write(&file, r#"{"kernel/hostname":"changed"}"#).unwrap();
        save(&file).unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("kernel/hostname"));
        let before = read("kernel/hostname");
        restore(&file).unwrap();
        assert_eq!(read("kernel/hostname"), before);
    }
}
