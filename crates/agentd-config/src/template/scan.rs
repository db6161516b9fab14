//! Finds where an expression ends, and what it is made of, before anything is compiled.

use super::{
    EXPRESSION_BYTES_MAX, EXPRESSION_NESTING_MAX, EXPRESSION_TOKENS_MAX, Fault, TemplateError, shown,
};

/// A part of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'t> {
    /// A name, a keyword or a number.
    Word(&'t str),
    /// What stands between quotes, as it is written.
    Text(&'t str),
    /// Anything else.
    Sign(char),
}

/// What stands between two pairs of braces.
#[derive(Debug)]
pub(super) struct Scanned<'t> {
    pub(super) source: &'t str,
    pub(super) tokens: Vec<Token<'t>>,
    /// Where the text goes on, in bytes.
    pub(super) after: usize,
    /// `{{-` and `-}}` take the white space beside them away.
    pub(super) trims_before: bool,
    pub(super) trims_after: bool,
}

/// Reads the expression whose opening braces stand at `offset`.
pub(super) fn expression(text: &str, offset: usize) -> Result<Scanned<'_>, TemplateError> {
    let open = offset + 2;
    let trims_before = text[open..].starts_with('-');
    let begin = open + usize::from(trims_before);
    let (mut at, mut tokens, mut depth) = (begin, Vec::new(), 0usize);
    loop {
        let rest = &text[at..];
        if at - begin > EXPRESSION_BYTES_MAX {
            let message = format!(
                "{} has more than {EXPRESSION_BYTES_MAX} bytes between its braces, which is the most",
                shown(&text[offset..at])
            );
            return Err(TemplateError::new(Fault::Syntax, offset, message));
        }
        let trims_after = rest.starts_with("-}}");
        if depth == 0 && (trims_after || rest.starts_with("}}")) {
            return Ok(Scanned {
                source: &text[begin..at],
                tokens,
                after: at + 2 + usize::from(trims_after),
                trims_before,
                trims_after,
            });
        }
        let Some(first) = rest.chars().next() else {
            return Err(unclosed(text, offset));
        };
        let (token, length) = token(rest, first).ok_or_else(|| unclosed(text, offset))?;
        at += length;
        let Some(token) = token else { continue };
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        tokens.push(token);
        if depth > EXPRESSION_NESTING_MAX || tokens.len() > EXPRESSION_TOKENS_MAX {
            let message = format!(
                "{} is too long: between the braces at most {EXPRESSION_TOKENS_MAX} names, values and signs may stand, \
                 and brackets at most {EXPRESSION_NESTING_MAX} deep",
                shown(&text[offset..at])
            );
            return Err(TemplateError::new(Fault::Syntax, offset, message));
        }
    }
}

/// The token that a text begins with (none: white space), and its length; None for a string without an end.
fn token(rest: &str, first: char) -> Option<(Option<Token<'_>>, usize)> {
    let run = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
    if first.is_whitespace() {
        return Some((None, run(char::is_whitespace)));
    }
    if first == '_' || first.is_alphanumeric() {
        let length = run(|c| c == '_' || c.is_alphanumeric());
        return Some((Some(Token::Word(&rest[..length])), length));
    }
    if first == '"' || first == '\'' {
        let mut escaped = false;
        let end = rest[1..].find(|c| {
            let ends = c == first && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        return Some((Some(Token::Text(&rest[1..=end])), end + 2));
    }
    Some((Some(Token::Sign(first)), first.len_utf8()))
}

fn unclosed(text: &str, offset: usize) -> TemplateError {
    let rest = &text[offset..];
    let message = match rest.find("}}") {
        Some(end) => format!(
            "{} is not a template: a quote or a bracket in it has no other end",
            shown(&rest[..end + 2])
        ),
        None => format!("{} is not a template: it has no closing }}}}", shown(rest)),
    };
    TemplateError::new(Fault::Syntax, offset, message)
}
