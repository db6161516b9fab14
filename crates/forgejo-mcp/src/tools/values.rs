//! Values of arguments: what is meant by what models write.

use serde_json::{Value, json};

use super::params::{Kind, TEXTS_MAX};

/// The value as it is meant: models send numbers and flags as text, and one text for a list of one.
pub(super) fn checked(kind: Kind, value: &Value) -> Result<Value, String> {
    match kind {
        Kind::Text(bytes_max) => {
            let text = value.as_str().ok_or("a text is wanted")?;
            if text.len() > bytes_max {
                return Err(format!("longer than {bytes_max} bytes"));
            }
            Ok(value.clone())
        }
        Kind::Id => integer(value, 1, i64::MAX as u64),
        Kind::Integer(min, max) => integer(value, min, max),
        Kind::Flag => match (value.as_bool(), value.as_str()) {
            (Some(flag), _) => Ok(json!(flag)),
            (None, Some("true")) => Ok(json!(true)),
            (None, Some("false")) => Ok(json!(false)),
            _ => Err("true or false is wanted".to_owned()),
        },
        Kind::Choice(choices) => match value.as_str() {
            Some(choice) if choices.contains(&choice) => Ok(value.clone()),
            _ => Err(format!("one of {} is wanted", choices.join(", "))),
        },
        Kind::Texts => {
            let texts = match value {
                Value::String(_) => std::slice::from_ref(value),
                Value::Array(texts) => texts.as_slice(),
                _ => return Err("a list of texts is wanted".to_owned()),
            };
            let sound = texts.len() <= TEXTS_MAX
                && texts
                    .iter()
                    .all(|text| text.as_str().is_some_and(|t| !t.is_empty() && t.len() <= 255));
            if sound {
                Ok(json!(texts))
            } else {
                Err(format!("at most {TEXTS_MAX} short texts are wanted"))
            }
        }
        Kind::Date => date(value.as_str().ok_or("a date is wanted")?),
        Kind::Comments => comments(value),
    }
}

fn integer(value: &Value, min: u64, max: u64) -> Result<Value, String> {
    let number = value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        // Written by a client whose numbers are all of one kind.
        .or_else(|| {
            value
                .as_f64()
                .filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n))
                .map(|n| n as u64)
        });
    match number {
        Some(number) if (min..=max).contains(&number) => Ok(json!(number)),
        _ if max > u64::from(u32::MAX) => Err(format!("a whole number from {min} is wanted")),
        _ => Err(format!("a whole number from {min} to {max} is wanted")),
    }
}

/// A moment as the forges read it. A day is its beginning in UTC.
fn date(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(json!(text));
    }
    if let Ok(day) = text.parse::<jiff::civil::Date>()
        && text.len() == 10
    {
        return Ok(json!(format!("{day}T00:00:00Z")));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => Ok(json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
        Err(_) => Err("a date such as 2026-01-31 or 2026-01-31T12:00:00Z is wanted".to_owned()),
    }
}

/// Comments as the forges take them.
fn comments(value: &Value) -> Result<Value, String> {
    let wanted = "a list of {path, line or old_line, body} is wanted";
    let list = value
        .as_array()
        .filter(|list| list.len() <= TEXTS_MAX)
        .ok_or(wanted)?;
    let comment = |comment: &Value| {
        let line = |name: &str| integer(&comment[name], 1, u32::MAX.into()).ok();
        let (path, body) = (comment["path"].as_str()?, comment["body"].as_str()?);
        let mut made = json!({ "path": path, "body": body });
        match (line("line"), line("old_line")) {
            (Some(new), None) => made["new_position"] = new,
            (None, Some(old)) => made["old_position"] = old,
            _ => return None,
        }
        Some(made)
    };
    list.iter()
        .map(comment)
        .collect::<Option<Vec<_>>>()
        .map(Value::Array)
        .ok_or_else(|| wanted.to_owned())
}
