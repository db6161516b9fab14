//! What the project's own files need to be tested as a user would use them.

use crate::support::TestEnvironment;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository")
}

/// A file of the repository, as text.
pub(crate) fn text_of(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The texts between fences of this language, in a Markdown file.
pub(crate) fn fenced(markdown: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info == language, String::new())),
            (Some(_), Some(_)) => {
                if let Some((true, block)) = open.take() {
                    blocks.push(block);
                }
            }
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence stays open");
    blocks
}

/// The fenced text that holds these words; there must be exactly one.
#[track_caller]
pub(crate) fn block(markdown: &str, language: &str, words: &str) -> String {
    let mut found: Vec<String> = fenced(markdown, language)
        .into_iter()
        .filter(|block| block.contains(words))
        .collect();
    assert_eq!(found.len(), 1, "blocks of {language} with {words:?}");
    found.remove(0)
}

/// The files of agentd's home that hold a text, in the clear: the database and its companions, artifacts, whatever there is;
/// and those whose names hold it.
pub(crate) fn files_with(env: &TestEnvironment, text: &str) -> Vec<PathBuf> {
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let mut found = Vec::new();
    let mut left = vec![env.state()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().expect("a file of ours");
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory of ours");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let in_name = path.file_name().is_some_and(|name| holds(name.as_bytes()));
        if in_name || (metadata.is_file() && holds(&fs::read(&path).expect("a file of ours"))) {
            found.push(path);
        }
    }
    found
}
