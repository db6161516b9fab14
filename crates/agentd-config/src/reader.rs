//! Reads TOML tables strictly: a key that nobody asks for is a mistake, and every mistake has a place.
//!
//! ```text
//!   text ── Document::parse ──▶ Document ── root() ──▶ Section ── text("goal"), duration("timeout", …), …
//! ```

use crate::source::{Mistake, Source, did_you_mean, quoted};
use crate::{duration, size};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Of one table, no more unknown keys are told.
const UNKNOWN_KEYS_MAX: usize = 20;
/// A message lists what would have been right up to so many names; beyond, the nearest one has to do.
const LISTED_MAX: usize = 12;

/// A value's text with the place where it stands.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where in the file, in bytes.
    pub span: Range<usize>,
}

impl<T> Located<T> {
    /// Another value at the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: change(self.value),
            span: self.span,
        }
    }
}

/// A file that is TOML.
#[derive(Debug)]
pub struct Document<'a> {
    source: Source<'a>,
    table: Spanned<DeTable<'a>>,
    what: &'a str,
}

impl<'a> Document<'a> {
    /// Takes a text apart. `what` it is stands in messages: "a plan".
    ///
    /// # Errors
    /// Where it is no TOML.
    pub fn parse(source: Source<'a>, what: &'a str) -> Result<Self, Mistake> {
        let table = DeTable::parse(source.text).map_err(|error| {
            let message = format!("not TOML: {}", error.message().trim());
            source.error(&error.span().unwrap_or(0..0), "", message)
        })?;
        Ok(Self { source, table, what })
    }

    /// The whole file.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        Section {
            source: self.source,
            what: self.what,
            table: self.table.get_ref(),
            span: 0..0,
            name: String::new(),
        }
    }
}

/// One of an array whose items are strings or tables.
#[derive(Clone, Debug)]
pub enum Item<'a> {
    /// A string.
    Text(Located<String>),
    /// A table.
    Section(Section<'a>),
}

/// One table of the file, and how to call it in a message.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    source: Source<'a>,
    what: &'a str,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    /// `nodes.build`, or empty at the top.
    name: String,
}

impl<'a> Section<'a> {
    /// Refuses keys that are not among `known`.
    ///
    /// # Errors
    /// The first one, in the order of the file.
    pub fn only(&self, known: &[&str]) -> Result<(), Mistake> {
        self.unknown(known, 1).into_iter().next().map_or(Ok(()), Err)
    }

    /// All keys that are not among `known`, in the order of the file; of very many the first ones.
    #[must_use]
    pub fn unknown_keys(&self, known: &[&str]) -> Vec<Mistake> {
        self.unknown(known, UNKNOWN_KEYS_MAX)
    }

    fn unknown(&self, known: &[&str], most: usize) -> Vec<Mistake> {
        let mut unknown: Vec<_> = self
            .table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .collect();
        unknown.sort_by_key(|key| key.span().start);
        let place = if self.name.is_empty() {
            format!("at the top of {}", self.what)
        } else {
            format!("in {}", self.name)
        };
        let mistake = |key: &Spanned<toml::de::DeString<'_>>| {
            let wrong: &str = key.get_ref();
            let hint = did_you_mean(wrong, known.iter().copied());
            let mut message = format!("unknown key {} {place}{hint}", quoted(wrong));
            if hint.is_empty() || known.len() <= LISTED_MAX {
                message += &format!(" (known here: {})", known.join(", "));
            }
            self.source.error(&key.span(), &self.path(wrong), message)
        };
        unknown.into_iter().take(most).map(mistake).collect()
    }

    /// What a key is called in full.
    #[must_use]
    pub fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// An error about this table as a whole.
    pub fn error(&self, message: impl Into<String>) -> Mistake {
        self.source.error(&self.span, &self.name, message)
    }

    /// An error about one value in it.
    pub fn error_at(&self, span: &Range<usize>, key: &str, message: impl Into<String>) -> Mistake {
        self.source.error(span, &self.path(key), message)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Mistake {
        let message = format!(
            "{} must be {wanted}, not {}",
            self.path(key),
            kind_of(value.get_ref())
        );
        self.error_at(&value.span(), key, message)
    }

    /// Where a key's value stands, if there is one.
    #[must_use]
    pub fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.get(key).map(Spanned::span)
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// A string, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, key: &str) -> Result<Option<Located<String>>, Mistake> {
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

    /// A string that stands for something, if there is one.
    ///
    /// # Errors
    /// When it is no string, or stands for nothing: then with the reason that `read` gives.
    pub fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<Located<T>>, Mistake> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match read(&text.value) {
            Ok(value) => Ok(Some(text.map(|_| value))),
            Err(why) => Err(self.error_at(&text.span, key, format!("{}: {why}", self.path(key)))),
        }
    }

    /// One of several words, if there is one.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<Located<T>>, Mistake> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        let found = words.iter().find(|(word, _)| *word == text.value);
        let (_, value) = found.ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let hint = did_you_mean(&text.value, words.iter().copied());
            let message = format!(
                "unknown {key} {}{hint} (known: {})",
                quoted(&text.value),
                words.join(", ")
            );
            self.error_at(&text.span, key, message)
        })?;
        Ok(Some(text.map(|_| *value)))
    }

    /// True or false, if there is one.
    ///
    /// # Errors
    /// When it is neither.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Mistake> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.get_ref() {
                DeValue::Boolean(truth) => Ok(Some(*truth)),
                _ => Err(self.wrong_type(key, value, "true or false")),
            },
        }
    }

    /// A duration between two bounds, if there is one.
    ///
    /// # Errors
    /// When it is no duration, or passes a bound.
    pub fn duration(
        &self,
        key: &str,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Option<Located<Duration>>, Mistake> {
        self.read(key, |text| {
            let value = duration::parse(text)?;
            if value > *bounds.end() {
                let most = duration::shown(*bounds.end());
                return Err(format!("{text:?} is longer than {most}, which is the most"));
            }
            if value < *bounds.start() {
                let least = duration::shown(*bounds.start());
                return Err(format!("{text:?} is shorter than {least}, which is the least"));
            }
            Ok(value)
        })
    }

    /// A size between two bounds, in bytes, if there is one.
    ///
    /// # Errors
    /// When it is no size, or passes a bound.
    pub fn size(&self, key: &str, bounds: RangeInclusive<u64>) -> Result<Option<u64>, Mistake> {
        let size = self.read(key, |text| {
            let bytes = size::parse(text)?;
            if !bounds.contains(&bytes) {
                return Err(format!(
                    "{text:?} is not between {} and {}",
                    size::shown(*bounds.start()),
                    size::shown(*bounds.end())
                ));
            }
            Ok(bytes)
        })?;
        Ok(size.map(|size| size.value))
    }

    /// A number between two bounds, with or without a fraction, if there is one.
    ///
    /// # Errors
    /// When it is no number, or passes a bound.
    pub fn number(&self, key: &str, bounds: RangeInclusive<f64>) -> Result<Option<f64>, Mistake> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse::<f64>().ok(),
            _ => return Err(self.wrong_type(key, value, "a number")),
        };
        // Nothing that is no number is between bounds.
        number
            .filter(|number| bounds.contains(number))
            .map(Some)
            .ok_or_else(|| {
                let message = format!(
                    "{} must be between {} and {}",
                    self.path(key),
                    bounds.start(),
                    bounds.end()
                );
                self.error_at(&value.span(), key, message)
            })
    }

    /// A whole number between two bounds, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&self, key: &str, bounds: Range<i64>) -> Result<Option<i64>, Mistake> {
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
    ///
    /// # Errors
    /// When it is something else.
    pub fn texts(&self, key: &str) -> Result<Option<Located<Vec<Located<String>>>>, Mistake> {
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

    /// An array whose items are strings or tables, if there is one.
    ///
    /// # Errors
    /// When it is something else, or has something else in it.
    pub fn items(&self, key: &str) -> Result<Option<Located<Vec<Item<'a>>>>, Mistake> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wanted = "an array of strings and tables";
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong_type(key, value, wanted));
        };
        let item = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::String(text) => Ok(Item::Text(Located {
                value: text.to_string(),
                span: item.span(),
            })),
            DeValue::Table(table) => Ok(Item::Section(self.inner(key, table, item.span()))),
            _ => Err(self.wrong_type(key, item, wanted)),
        };
        Ok(Some(Located {
            value: items.iter().map(item).collect::<Result<_, _>>()?,
            span: value.span(),
        }))
    }

    fn inner(&self, key: &str, table: &'a DeTable<'a>, span: Range<usize>) -> Self {
        Self {
            source: self.source,
            what: self.what,
            table,
            span,
            name: self.path(key),
        }
    }

    /// A table inside this one, if there is one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn section(&self, key: &str) -> Result<Option<Section<'a>>, Mistake> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Table(table) => Ok(Some(self.inner(key, table, value.span()))),
            _ => Err(self.wrong_type(key, value, "a table")),
        }
    }

    /// The tables of an array of tables.
    ///
    /// # Errors
    /// When it is something else.
    pub fn sections(&self, key: &str) -> Result<Vec<Section<'a>>, Mistake> {
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
            DeValue::Table(table) => Ok(self.inner(key, table, item.span())),
            _ => Err(self.wrong_type(
                key,
                item,
                &format!("an array of tables (write [[{key}]] above each)"),
            )),
        };
        items.iter().map(section).collect()
    }

    /// The keys of this table with their places, in the order of the file.
    pub fn keys(&self) -> Vec<Located<String>> {
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

    /// The file that it stands in.
    #[must_use]
    pub fn source(&self) -> Source<'a> {
        self.source
    }

    /// What this table is called; empty for the whole file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same table under another name, once it is known.
    #[must_use]
    pub fn named(self, name: String) -> Self {
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
