//! Reads TOML tables strictly: a key that nobody asks for is a mistake, and every mistake has a place.

use super::duration;
use super::error::{PlanError, Source, did_you_mean};
use agentd_protocol::Seconds;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value's text with the place where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// One table of the plan, and how to call it in a message.
#[derive(Clone, Debug)]
pub(crate) struct Section<'a> {
    source: Source<'a>,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    /// `nodes.build`, or empty at the top.
    name: String,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(crate) fn root(source: Source<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            source,
            table: table.get_ref(),
            span: 0..0,
            name: String::new(),
        }
    }

    /// Refuses keys that are not among `known`.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), PlanError> {
        // In the order of the file, so that the first message is about the first mistake.
        let mut unknown: Vec<_> = self
            .table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .collect();
        unknown.sort_by_key(|key| key.span().start);
        let Some(key) = unknown.first() else { return Ok(()) };
        let wrong: &str = key.get_ref();
        let place = if self.name.is_empty() {
            "at the top of a plan".into()
        } else {
            format!("in {}", self.name)
        };
        let hint = did_you_mean(wrong, known.iter().copied());
        let message = format!(
            "unknown key {wrong:?} {place}{hint} (known here: {})",
            known.join(", ")
        );
        Err(self.source.error(&key.span(), &self.path(wrong), message))
    }

    /// What a key is called in full.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// An error about this table as a whole.
    pub(crate) fn error(&self, message: impl Into<String>) -> PlanError {
        self.source.error(&self.span, &self.name, message)
    }

    /// An error about one value in it.
    pub(crate) fn error_at(&self, span: &Range<usize>, key: &str, message: impl Into<String>) -> PlanError {
        self.source.error(span, &self.path(key), message)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> PlanError {
        let message = format!(
            "{} must be {wanted}, not {}",
            self.path(key),
            kind_of(value.get_ref())
        );
        self.error_at(&value.span(), key, message)
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// Where a key's value stands, if it is there.
    pub(crate) fn place(&self, key: &str) -> Option<Range<usize>> {
        self.get(key).map(Spanned::span)
    }

    /// A string, if there is one.
    pub(crate) fn text(&self, key: &str) -> Result<Option<Located<String>>, PlanError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::String(text) => Ok(Some(Located {
                value: text.to_string(),
                span: value.span(),
            })),
            _ => Err(self.wrong_type(key, value, "a string")),
        }
    }

    /// A duration, if there is one.
    pub(crate) fn duration(&self, key: &str) -> Result<Option<Located<Seconds>>, PlanError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let value = duration::parse(&text.value)
            .map_err(|why| self.error_at(&text.span, key, format!("{}: {why}", self.path(key))))?;
        Ok(Some(Located {
            value,
            span: text.span,
        }))
    }

    /// A whole number between two bounds, if there is one.
    pub(crate) fn integer(&self, key: &str, bounds: Range<i64>) -> Result<Option<i64>, PlanError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let DeValue::Integer(number) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "a whole number"));
        };
        let number = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|n| bounds.contains(n));
        number.map(Some).ok_or_else(|| {
            let message = format!(
                "{} must be between {} and {}",
                self.path(key),
                bounds.start,
                bounds.end - 1
            );
            self.error_at(&value.span(), key, message)
        })
    }

    /// An array of strings, if there is one.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Located<Vec<Located<String>>>>, PlanError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "an array of strings"));
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let DeValue::String(text) = item.get_ref() else {
                return Err(self.wrong_type(key, item, "an array of strings"));
            };
            texts.push(Located {
                value: text.to_string(),
                span: item.span(),
            });
        }
        Ok(Some(Located {
            value: texts,
            span: value.span(),
        }))
    }

    /// A table inside this one, if there is one.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Section<'a>>, PlanError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Table(table) => Ok(Some(Section {
                source: self.source,
                table,
                span: value.span(),
                name: self.path(key),
            })),
            _ => Err(self.wrong_type(key, value, "a table")),
        }
    }

    /// The tables of an array of tables.
    pub(crate) fn sections(&self, key: &str) -> Result<Vec<Section<'a>>, PlanError> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong_type(
                key,
                value,
                &format!("an array of tables (write [[{key}]] above each)"),
            ));
        };
        let section = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::Table(table) => Ok(Section {
                source: self.source,
                table,
                span: item.span(),
                name: self.path(key),
            }),
            _ => Err(self.wrong_type(
                key,
                item,
                &format!("an array of tables (write [[{key}]] above each)"),
            )),
        };
        items.iter().map(section).collect()
    }

    /// The keys of this table with their places, in the order of the file.
    pub(crate) fn keys(&self) -> Vec<Located<String>> {
        let keys = self.table.keys();
        let mut keys: Vec<_> = keys
            .map(|key| Located {
                value: key.get_ref().to_string(),
                span: key.span(),
            })
            .collect();
        keys.sort_by_key(|key| key.span.start);
        keys
    }

    /// The same table under another name, once it is known.
    pub(crate) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
