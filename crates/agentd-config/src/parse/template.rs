//! Prompts are templates; here only whether they are well-formed. What they speak of is known when a session begins.

use minijinja::Environment;
use std::sync::LazyLock;

/// Building one costs more than checking a prompt, and a file may have thousands.
static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);

/// Says what keeps a text from being a template.
///
/// # Errors
/// What is wrong, and in which of its lines.
pub fn check(text: &str) -> Result<(), String> {
    if !["{{", "{%", "{#"].iter().any(|mark| text.contains(mark)) {
        return Ok(());
    }
    match TEMPLATES.template_from_str(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let what = error
                .detail()
                .map_or_else(|| error.kind().to_string(), str::to_owned);
            Err(match error.line() {
                Some(line) if text.contains('\n') => {
                    format!("it is not a template: {what} (in its line {line})")
                }
                _ => format!("it is not a template: {what}"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_template_says_where() {
        assert_eq!(check("Review {{ trigger.ref }} { { %"), Ok(()));
        assert!(
            check("Review {{ trigger.ref }")
                .unwrap_err()
                .contains("not a template")
        );
        assert!(check("a\n{% if x %}\nb").unwrap_err().contains("line "));
        assert!(check(&"{{(".repeat(100_000)).is_err());
    }
}
