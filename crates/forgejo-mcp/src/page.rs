//! Answers in parts: lists by page, texts by byte, each with a cursor that leads on.

use serde_json::{Map, Value, json};

use crate::client::{Forge, Reply};
use crate::error::{ForgeError, ToolError};
use crate::path::{ApiPath, Query};

/// How many items a list has unless a call says otherwise, and how many it may ask for.
pub(crate) const ITEMS: u64 = 20;
pub(crate) const ITEMS_MAX: u64 = 50;

/// Where a list goes on: `page.limit.skip`. It says everything itself, so that any call can use it at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListCursor {
    /// From 1.
    page: u64,
    /// Items in a page; all later pages must be cut the same way.
    limit: u64,
    /// Items of the page that were seen already.
    skip: u64,
}

impl ListCursor {
    /// From the arguments `cursor` and `limit`; a cursor's own limit wins.
    pub(crate) fn new(cursor: Option<&str>, limit: Option<u64>) -> Result<Self, ToolError> {
        let Some(cursor) = cursor else {
            return Ok(Self {
                page: 1,
                limit: limit.unwrap_or(ITEMS),
                skip: 0,
            });
        };
        let wrong = || {
            ToolError::argument(
                "cursor",
                "is none of this list; give the one that came as next_cursor, or none",
            )
        };
        let mut numbers = cursor.split('.').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (Some(page), Some(limit), Some(skip)) = (next(), next(), next()) else {
            return Err(wrong());
        };
        let sound = numbers.next().is_none()
            && (1..=1_000_000).contains(&page)
            && (1..=ITEMS_MAX).contains(&limit)
            && skip <= 1_000_000;
        if sound {
            Ok(Self { page, limit, skip })
        } else {
            Err(wrong())
        }
    }
}

impl std::fmt::Display for ListCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.page, self.limit, self.skip)
    }
}

/// Where a text goes on: `b` and the byte.
pub(crate) fn text_cursor(cursor: Option<&str>) -> Result<u64, ToolError> {
    let Some(cursor) = cursor else { return Ok(0) };
    cursor
        .strip_prefix('b')
        .and_then(|byte| byte.parse().ok())
        .ok_or_else(|| {
            ToolError::argument(
                "cursor",
                "is none of this text; give the one that came as next_cursor, or none",
            )
        })
}

/// What a tool answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// One thing.
    One(Value),
    /// A part of a list, and what is to be known about it.
    List {
        about: Map<String, Value>,
        items: Vec<Value>,
        total: Option<u64>,
        next: Option<ListCursor>,
    },
    /// A part of a text, and what is to be known about it.
    Text {
        about: Map<String, Value>,
        text: String,
        start: u64,
        total: Option<u64>,
        next: Option<u64>,
    },
}

/// How a list stands in the forge's answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// The field that holds it, if it is not the answer itself.
    pub(crate) inside: Option<&'static str>,
    /// Fields beside it that are passed on.
    pub(crate) keep: &'static [&'static str],
    /// The field that counts it.
    pub(crate) total: Option<&'static str>,
    /// What the forge calls the size of a page here.
    pub(crate) limit: &'static str,
}

impl Frame {
    /// The answer is the list.
    pub(crate) const NONE: Self = Self {
        inside: None,
        keep: &[],
        total: None,
        limit: "limit",
    };
}

/// A list that the forge serves in pages.
pub(crate) async fn pages(
    forge: &Forge,
    path: &ApiPath,
    query: Query,
    frame: Frame,
    cursor: ListCursor,
    bytes_max: usize,
    shape: impl Fn(&Value) -> Value,
) -> Result<Answer, ToolError> {
    let query = query
        .with("page", Some(cursor.page))
        .with(frame.limit, Some(cursor.limit));
    let mut reply = forge.get(path, &query).await?;
    let (about, found) = open(&mut reply, frame)?;
    let count = found.len() as u64;
    let more = more_pages(forge, &reply, cursor, count).await?;
    // A forge whose own bound is lower than the limit has cut its pages by that one.
    let limit = if more && count > 0 && count < cursor.limit {
        count
    } else {
        cursor.limit
    };
    let skip = cursor.skip.min(count) as usize;
    let (items, fitted) = fit(found[skip..].iter().map(shape), bytes_max);
    let next = if (fitted as u64) < count - skip as u64 {
        Some(ListCursor {
            limit,
            skip: (skip + fitted) as u64,
            ..cursor
        })
    } else {
        more.then_some(ListCursor {
            page: cursor.page + 1,
            limit,
            skip: 0,
        })
    };
    Ok(Answer::List {
        about,
        items,
        total: reply.total,
        next,
    })
}

/// A list that the forge serves whole, cut here.
pub(crate) async fn whole(
    forge: &Forge,
    path: &ApiPath,
    query: Query,
    frame: Frame,
    cursor: ListCursor,
    bytes_max: usize,
    shape: impl Fn(&Value) -> Value,
) -> Result<Answer, ToolError> {
    let mut reply = forge.get(path, &query).await?;
    let (about, found) = open(&mut reply, frame)?;
    let skip = usize::try_from(cursor.skip)
        .unwrap_or(usize::MAX)
        .min(found.len());
    let wanted = found[skip..].iter().take(cursor.limit as usize).map(shape);
    let (items, fitted) = fit(wanted, bytes_max);
    let seen = skip + fitted;
    let next = (seen < found.len()).then_some(ListCursor {
        page: 1,
        skip: seen as u64,
        ..cursor
    });
    Ok(Answer::List {
        about,
        items,
        total: Some(found.len() as u64),
        next,
    })
}

/// A text that we hold, from `start`.
pub(crate) fn text(about: Map<String, Value>, text: &str, start: u64, bytes_max: usize) -> Answer {
    let total = text.len() as u64;
    let begin = text.ceil_char_boundary(usize::try_from(start).unwrap_or(usize::MAX).min(text.len()));
    let part = &text.as_bytes()[begin..];
    let (part, more) = whole_lines(part, bytes_max);
    let next = more.then_some((begin + part.len()) as u64);
    let text = String::from_utf8_lossy(part).into_owned();
    Answer::Text {
        about,
        text,
        start: begin as u64,
        total: Some(total),
        next,
    }
}

/// As much of `bytes` as fits, ending with a line if one ends in its latter half, or else with a character.
pub(crate) fn whole_lines(bytes: &[u8], bytes_max: usize) -> (&[u8], bool) {
    if bytes.len() <= bytes_max {
        return (bytes, false);
    }
    let part = &bytes[..bytes_max];
    let end = match part.iter().rposition(|byte| *byte == b'\n') {
        Some(line) if line >= bytes_max / 2 => line + 1,
        _ => {
            // At most three bytes of a character are without their rest.
            (bytes_max.saturating_sub(3)..=bytes_max)
                .rev()
                .find(|end| bytes[*end] & 0b1100_0000 != 0b1000_0000)
                .unwrap_or(bytes_max)
        }
    };
    (&part[..end], true)
}

/// Takes the list out of an answer, and what stands beside it.
fn open(reply: &mut Reply, frame: Frame) -> Result<(Map<String, Value>, Vec<Value>), ForgeError> {
    let unintelligible = || ForgeError::Unintelligible {
        reason: "a list was expected".to_owned(),
        write: false,
    };
    let mut about = Map::new();
    let list = match frame.inside {
        Some(field) => {
            let fields = reply.value.as_object_mut().ok_or_else(unintelligible)?;
            for name in frame.keep {
                about.extend(fields.get(*name).map(|value| ((*name).to_owned(), value.clone())));
            }
            reply.total = frame
                .total
                .and_then(|name| fields.get(name)?.as_u64())
                .or(reply.total);
            fields.remove(field).unwrap_or(Value::Null)
        }
        None => reply.value.take(),
    };
    about.values_mut().for_each(|value| clamp(value, 300));
    match list {
        Value::Array(items) => Ok((about, items)),
        // Both forges write an empty list as null in places.
        Value::Null => Ok((about, Vec::new())),
        _ => Err(unintelligible()),
    }
}

/// Whether a next page has something, of which some endpoints say nothing.
async fn more_pages(
    forge: &Forge,
    reply: &Reply,
    cursor: ListCursor,
    count: u64,
) -> Result<bool, ForgeError> {
    if count == 0 {
        return Ok(false);
    }
    if let Some(next) = reply.next {
        return Ok(next);
    }
    if let Some(total) = reply.total {
        return Ok(total > (cursor.page - 1) * cursor.limit + count);
    }
    // A page that is not full is the last one, if full is what we take it to be.
    Ok(count >= cursor.limit || count >= forge.page_items_max().await?)
}

/// As many items as fit, and always one, so that every call gets on.
fn fit(shaped: impl Iterator<Item = Value>, bytes_max: usize) -> (Vec<Value>, usize) {
    let mut items = Vec::new();
    let mut bytes = 0;
    for mut item in shaped {
        let mut size = size_of(&item);
        if size > bytes_max {
            clamp(&mut item, 200);
            size = size_of(&item);
        }
        if size > bytes_max {
            item = json!({ "omitted": format!("an item of {size} bytes, more than one answer holds") });
            size = size_of(&item);
        }
        if !items.is_empty() && bytes + size > bytes_max {
            break;
        }
        bytes += size;
        items.push(item);
    }
    let fitted = items.len();
    (items, fitted)
}

fn size_of(value: &Value) -> usize {
    value.to_string().len()
}

/// Cuts every text and every list in a value, and says where.
pub(crate) fn clamp(value: &mut Value, chars_max: usize) {
    match value {
        Value::String(text) => *text = crate::shape::cut(text, chars_max, ""),
        Value::Array(items) => {
            let more = items.len().saturating_sub(30);
            items.truncate(30);
            items.iter_mut().for_each(|item| clamp(item, chars_max));
            if more > 0 {
                items.push(json!(format!("…[{more} more]")));
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| clamp(field, chars_max)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_say_everything_and_are_checked() {
        let cursor = ListCursor {
            page: 3,
            limit: 20,
            skip: 7,
        };
        assert_eq!(
            ListCursor::new(Some(&cursor.to_string()), Some(50)).unwrap(),
            cursor
        );
        assert_eq!(
            ListCursor::new(None, Some(5)).unwrap(),
            ListCursor {
                page: 1,
                limit: 5,
                skip: 0
            }
        );
        for bad in [
            "", "1", "1.2", "0.20.0", "1.0.0", "1.51.0", "1.20.0.0", "a.b.c", "-1.20.0", "b7",
        ] {
            assert!(ListCursor::new(Some(bad), None).is_err(), "{bad}");
        }
        assert_eq!(text_cursor(Some("b12")).unwrap(), 12);
        assert!(text_cursor(Some("1.20.0")).is_err() && text_cursor(Some("12")).is_err());
    }

    #[test]
    fn the_parts_of_a_text_are_the_text() {
        let whole = "first line\nsecond\u{1F600}\u{1F600}\u{1F600}\n".repeat(7);
        for bytes_max in [5, 8, 13, 64] {
            let (mut got, mut start) = (String::new(), 0);
            loop {
                let Answer::Text { text, next, .. } = text(Map::new(), &whole, start, bytes_max) else {
                    panic!()
                };
                got.push_str(&text);
                match next {
                    Some(next) => start = next,
                    None => break,
                }
            }
            assert_eq!(got, whole, "{bytes_max}");
        }
    }

    #[test]
    fn an_item_that_is_too_large_is_cut_and_does_not_stop_the_list() {
        let items = [
            json!({"a": "x".repeat(900)}),
            json!({"b": 1}),
            json!({"c": "y".repeat(300)}),
        ];
        let (fitted, count) = fit(items.into_iter(), 500);
        assert_eq!(count, 2);
        assert!(fitted[0]["a"].as_str().unwrap().contains("bytes more"));
    }
}
