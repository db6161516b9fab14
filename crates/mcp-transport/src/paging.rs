//! Output that is too large for one answer: its first part with a marker, and the rest to be read on.
//!
//! The whole text lies in a file; an agent reads on from an id and an offset. Nothing is cut without a word.

use crate::message::{Object, Raw, raw, raw_text};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The most files at once.
const FILES_MAX: usize = 256;

/// The largest beginning of `text` of at most `bytes_max` bytes that does not cut a character.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The kinds of result whose text can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `content`
    ToolCall,
    /// `contents`
    Resource,
}

/// A result taken apart.
#[derive(Debug)]
pub(crate) struct Cut {
    /// All that there is to read, as one text.
    pub(crate) whole: String,
    /// What goes before it in the result's blocks, as far as it is small: none is kept but text.
    structured_is_missing: bool,
}

#[derive(Deserialize)]
struct Block {
    text: Option<String>,
    r#type: Option<String>,
    uri: Option<String>,
    #[serde(rename = "mimeType")]
    mime_type: Option<String>,
}

/// The text of a result's blocks, one after the other. What is not text is described in a line of its own.
pub(crate) fn take_apart(kind: Kind, result: &RawValue) -> Option<Cut> {
    let object = Object::parse(result)?;
    let key = if kind == Kind::ToolCall {
        "content"
    } else {
        "contents"
    };
    let blocks: Vec<&RawValue> = object
        .get(key)
        .and_then(|blocks| serde_json::from_str(blocks.get()).ok())
        .unwrap_or_default();
    let mut whole = String::new();
    for block in blocks {
        if !whole.is_empty() && !whole.ends_with('\n') {
            whole.push('\n');
        }
        let size = block.get().len();
        match serde_json::from_str::<Block>(block.get()) {
            Ok(Block { text: Some(text), .. }) => whole.push_str(&text),
            Ok(block) => {
                let what = block.r#type.or(block.uri).unwrap_or_default();
                let kind = block.mime_type.unwrap_or_default();
                whole.push_str(&format!("[{what} {kind}: {size} bytes left out]"));
            }
            Err(_) => whole.push_str(&format!("[{size} bytes that are no content block left out]")),
        }
    }
    let structured = object.get("structuredContent");
    if whole.is_empty()
        && let Some(structured) = structured
    {
        whole.push_str(structured.get());
    }
    Some(Cut {
        whole,
        structured_is_missing: structured.is_some(),
    })
}

/// How reading on is called.
pub(crate) struct Marker<'a> {
    /// The gateway's tool.
    pub(crate) tool: &'a str,
    /// The text's id; none when it could not be kept, and why.
    pub(crate) id: Result<&'a str, &'a str>,
}

impl Marker<'_> {
    /// What is put at the end of a part that ends at `end` of `whole` bytes.
    pub(crate) fn text(&self, end: usize, whole: usize) -> String {
        match self.id {
            Ok(id) => format!(
                "\n[cut here: {end} of {whole} bytes. Read on with the tool {} and the arguments {{\"id\":\"{id}\",\"offset\":{end}}}]",
                self.tool
            ),
            Err(why) => format!("\n[cut here: {end} of {whole} bytes. The rest is lost: {why}]"),
        }
    }
}

/// Room for the marker and what stands around the text.
const AROUND_BYTES: usize = 512;

/// A part of `text`, from its beginning (which is at `offset` of `whole` bytes), whose JSON has at most `bytes_max`
/// bytes, with the marker when it is not the end.
pub(crate) fn part(text: &str, offset: usize, whole: usize, bytes_max: usize, marker: &Marker<'_>) -> String {
    let room = bytes_max.saturating_sub(AROUND_BYTES).max(64);
    let mut part = cut(text, room);
    // Quotes, line breaks and control characters take more room in JSON than in the text.
    while raw(part).get().len() > room + 2 && part.len() > 1 {
        let escaped = raw(part).get().len();
        let smaller = part.len() * room / escaped;
        part = cut(part, smaller.min(part.len() - 1));
    }
    if part.is_empty() {
        // One character at least, or nobody would ever come to the end.
        part = cut(text, text.chars().next().map_or(0, char::len_utf8));
    }
    let end = offset + part.len();
    if end >= whole {
        return part.to_owned();
    }
    format!("{part}{}", marker.text(end, whole))
}

/// A result in the place of the one that was too large.
pub(crate) fn put_together(
    kind: Kind,
    original: &RawValue,
    cut: &Cut,
    text: &str,
    must_be_error: bool,
) -> Raw {
    let mut result = Object::parse(original).unwrap_or_default();
    match kind {
        Kind::ToolCall => {
            let block = serde_json::json!([{"type": "text", "text": text}]);
            result.remove("structuredContent");
            // Clients insist on structured content where a tool has promised it, but for errors.
            if cut.structured_is_missing && must_be_error {
                result.set("isError", raw(&true));
            }
            result.set("content", raw(&block));
        }
        Kind::Resource => {
            let uri = serde_json::from_str::<Vec<Block>>(result.get("contents").map_or("[]", RawValue::get))
                .ok()
                .and_then(|blocks| blocks.into_iter().find_map(|block| block.uri))
                .unwrap_or_default();
            let block = serde_json::json!([{"uri": uri, "mimeType": "text/plain", "text": text}]);
            result.set("contents", raw(&block));
        }
    }
    // Whatever else may be that large is not wanted either.
    if result.to_text().len() > text.len() * 6 + 64 * 1024 {
        let mut least = Object::default();
        for key in ["content", "contents", "isError", "resultType"] {
            if let Some(value) = result.get(key) {
                least.set(key, value.to_owned());
            }
        }
        return raw_text(least.to_text());
    }
    result.to_raw()
}

/// Texts on disk, bounded together: the oldest make room.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    bytes_max: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    files: VecDeque<(String, u64)>,
    bytes: u64,
}

impl Spool {
    pub(crate) fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self {
            dir,
            bytes_max,
            kept: Mutex::default(),
        }
    }

    /// Keeps a text and gives its id.
    pub(crate) fn keep(&self, text: &str) -> io::Result<String> {
        let size = text.len() as u64;
        if size > self.bytes_max {
            let message = format!("it is larger than the {} bytes that are kept", self.bytes_max);
            return Err(io::Error::other(message));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.bytes + size > self.bytes_max || kept.files.len() >= FILES_MAX {
            let Some((id, size)) = kept.files.pop_front() else {
                break;
            };
            kept.bytes -= size;
            // Gone already is as good.
            let _ = fs::remove_file(self.dir.join(id));
        }
        kept.next += 1;
        let id = format!("output-{}", kept.next);
        let path = self.dir.join(&id);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = written {
            let _ = fs::remove_file(path);
            return Err(error);
        }
        kept.files.push_back((id.clone(), size));
        kept.bytes += size;
        Ok(id)
    }

    /// A piece of at most `bytes_max` bytes from `offset` on, and the size of the whole.
    pub(crate) fn read(&self, id: &str, offset: u64, bytes_max: usize) -> Result<(String, u64), String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Only what this spool has written is read: an id is no path.
        let Some((_, size)) = kept.files.iter().find(|(known, _)| known == id) else {
            return Err(format!("there is no output {id:?} any more: call the tool again"));
        };
        let size = *size;
        if offset >= size {
            return Err(format!(
                "the output {id:?} has {size} bytes: nothing is at {offset}"
            ));
        }
        let read = || {
            let file = File::open(self.dir.join(id))?;
            let mut bytes = vec![
                0;
                usize::try_from(size - offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes_max + 3)
            ];
            file.read_exact_at(&mut bytes, offset)?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = read().map_err(|error| format!("the output {id:?} cannot be read: {error}"))?;
        if bytes.first().is_some_and(|byte| (0x80..0xc0).contains(byte)) {
            return Err(format!(
                "{offset} is in the middle of a character: use the offset that you were given"
            ));
        }
        let valid = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            // The last character goes on behind the piece.
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        Ok((valid.to_owned(), size))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (id, _) in &kept.files {
            let _ = fs::remove_file(self.dir.join(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARKER: Marker<'_> = Marker {
        tool: "gateway__read_more",
        id: Ok("output-1"),
    };

    proptest! {
        // Each case reads a text many times.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_text_can_be_read_to_its_end(text in "(.|\n|\u{1}|\"|ä|€|😀){0,4000}", max in 600..1500_usize) {
            let dir = tempfile::tempdir().unwrap();
            let spool = Spool::new(dir.path().to_owned(), 1 << 20);
            let id = spool.keep(&text).unwrap();
            let (mut all, mut offset) = (String::new(), 0);
            while offset < text.len() {
                let (piece, whole) = spool.read(&id, offset as u64, max).unwrap();
                let part = part(&piece, offset, usize::try_from(whole).unwrap(), max, &MARKER);
                prop_assert!(raw(&part).get().len() <= max);
                let shown = match part.rsplit_once("\n[cut here: ") {
                    Some((shown, marker)) => {
                        let end: usize = marker.split(' ').next().unwrap().parse().unwrap();
                        prop_assert_eq!(end, offset + shown.len());
                        shown
                    }
                    None => &part,
                };
                prop_assert!(!shown.is_empty());
                all.push_str(shown);
                offset += shown.len();
            }
            prop_assert_eq!(all, text);
        }
    }

    #[test]
    fn the_oldest_make_room_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().to_owned(), 100);
        let first = spool.keep(&"a".repeat(60)).unwrap();
        let second = spool.keep(&"b".repeat(60)).unwrap();
        assert!(spool.read(&first, 0, 10).is_err());
        assert_eq!(spool.read(&second, 50, 100).unwrap(), ("b".repeat(10), 60));
        assert!(spool.read("../../etc/passwd", 0, 10).is_err());
        assert!(spool.read(&second, 60, 10).is_err());
        assert!(spool.keep(&"c".repeat(101)).is_err());
        drop(spool);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_large_result_is_cut() {
        let result = raw(&serde_json::json!({
            "content": [{"type": "text", "text": "x".repeat(5000)}, {"type": "image", "data": "A".repeat(9000), "mimeType": "image/png"}],
            "structuredContent": {"x": "y".repeat(5000)}, "_meta": {"kept": true},
        }));
        let cut = take_apart(Kind::ToolCall, &result).unwrap();
        assert!(cut.whole.ends_with("bytes left out]"));
        let text = part(&cut.whole, 0, cut.whole.len(), 1000, &MARKER);
        let small = put_together(Kind::ToolCall, &result, &cut, &text, true);
        let value: serde_json::Value = serde_json::from_str(small.get()).unwrap();
        assert_eq!(value["isError"], true);
        assert_eq!(value["_meta"]["kept"], true);
        assert!(
            value["content"][0]["text"]
                .as_str()
                .unwrap()
                .contains("Read on with")
        );
        assert!(small.get().len() < 2000);
    }
}
