use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::collection::vec;
use proptest::prelude::*;

fn redactor(secrets: &[&str]) -> Redactor {
    Redactor::new(secrets.iter().map(|secret| secret.as_bytes().to_vec()))
}

#[test]
fn every_form_is_found() {
    let value = "pä/ss\"w\\ord <&> 42\u{1f600}\tx";
    let redactor = redactor(&[&format!("{value}\r\n\n")]);
    let json = serde_json::to_string(value).unwrap();
    let twice = serde_json::to_string(&json).unwrap();
    let forms = [
        value.to_owned(),
        json.trim_matches('"').to_owned(),
        twice[3..twice.len() - 3].to_owned(),
        "p\\u00e4\\/ss\\\"w\\\\ord <&> 42\\ud83d\\ude00\\tx".into(),
        "p\\u00E4/ss\\\"w\\\\ord \\u003C\\u0026\\u003E 42\\uD83D\\uDE00\\u0009x".into(),
        // .NET; Go; Gson.
        "p\\u00E4/ss\\u0022w\\\\ord \\u003C\\u0026\\u003E 42\\uD83D\\uDE00\\tx".into(),
        "pä/ss\\\"w\\\\ord \\u003c\\u0026\\u003e 42\u{1f600}\\tx".into(),
        "p%C3%A4/ss%22w%5Cord%20%3C%26%3E%2042%F0%9F%98%80%09x".into(),
        "p%C3%A4%2Fss%22w%5Cord%20%3C%26%3E%2042%F0%9F%98%80%09x".into(),
        "p%c3%a4%2fss%22w%5cord+%3c%26%3e+42%f0%9f%98%80%09x".into(),
    ];
    for form in forms {
        assert_eq!(
            redactor.redact_text(&format!("<{form}>")),
            "<[redacted]>",
            "{form}"
        );
    }
    for before in ["", "a", "ab", "abc", "abcd"] {
        for after in ["", "z", "zz"] {
            for engine in [&STANDARD as &dyn Encode, &URL_SAFE_NO_PAD] {
                let text = engine.encode_text(&format!("{before}{value}{after}"));
                let hidden = redactor.redact_text(&text);
                assert!(hidden.contains(REPLACEMENT), "{before} {after} {text} {hidden}");
                // What is left is what came before and after, with the characters that they share.
                assert!(hidden.len() <= REPLACEMENT.len() + 16, "{hidden}");
            }
        }
    }
}

trait Encode {
    fn encode_text(&self, text: &str) -> String;
}
impl<T: base64::Engine> Encode for T {
    fn encode_text(&self, text: &str) -> String {
        self.encode(text)
    }
}

#[test]
fn what_stands_in_html_is_found_in_a_stream() {
    let redactor = redactor(&["a+b=c'd>e&f"]);
    for form in [
        "a\\u002Bb=c\\u0027d\\u003Ee\\u0026f",
        "a\\u002bb=c\\u0027d\\u003ee\\u0026f",
        "a+b\\u003dc\\u0027d\\u003ee\\u0026f",
        "a+b=c'd\\u003ee\\u0026f",
    ] {
        assert_eq!(redactor.redact(form.as_bytes()), REPLACEMENT.as_bytes(), "{form}");
    }
}

#[test]
fn a_text_is_read_as_json_would_be() {
    let redactor = redactor(&["ghp/AbCd+EfGh==12", "correct horse"]);
    for (text, expected) in [
        (
            "\"ghp\\/AbCd\\u002B\\u0045fGh\\u003d=12\" \\u0041",
            "\"[redacted]\" A",
        ),
        ("g\\u0068p/AbCd+EfGh==12", "[redacted]"),
        (
            "{\\\"k\\\":\\\"\\\\u0063orrect horse\\\"}, correct horse",
            "{\"k\":\"[redacted]\"}, [redacted]",
        ),
        ("C:\\new \\u0041", "C:\\new \\u0041"),
    ] {
        assert_eq!(redactor.redact_text(text), expected, "{text}");
    }
}

#[test]
fn keys_are_hidden_line_by_line_and_short_values_are_not_looked_for() {
    let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
    let key = format!("-----BEGIN PRIVATE KEY-----\n{line}\nshort\n-----END PRIVATE KEY-----\n");
    let keys = redactor(&[&key, "1234567"]);
    assert_eq!(keys.redact_text(&key), "[redacted]\n");
    assert_eq!(
        keys.redact_text(&format!("-----BEGIN PRIVATE KEY-----\n  {line}\nshort 1234567")),
        "-----BEGIN PRIVATE KEY-----\n  [redacted]\nshort 1234567"
    );
    let wrapped = STANDARD.encode(key.trim_end());
    let wrapped: Vec<&str> = wrapped
        .as_bytes()
        .chunks(76)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    assert_eq!(keys.redact_text(&wrapped.join("\n")), REPLACEMENT);
    assert_eq!(redactor(&[]).redact_text("all of it"), "all of it");
}

#[test]
fn only_what_may_become_a_secret_is_held_back() {
    let mut stream = redactor(&["correct horse"]).stream();
    let mut out = Vec::new();
    stream.push(b"a prompt> corr", &mut out);
    assert_eq!(out, b"a prompt> ");
    stream.push(b"upt", &mut out);
    assert_eq!(out, b"a prompt> corrupt");
    stream.push(b" correct hors", &mut out);
    stream.finish(&mut out);
    assert_eq!(out, b"a prompt> corrupt correct hors");
}

#[test]
fn debug_output_shows_nothing() {
    let redactor = redactor(&["correct horse"]);
    let mut stream = redactor.stream();
    stream.push(b"correct hor", &mut Vec::new());
    assert!(!format!("{redactor:?} {stream:?}").contains("corr"));
}

/// Few different characters, so that secrets overlap with themselves, each other and the text around them.
fn secret() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{8,12}", "[a/\"é\\\\]{8,20}", "[a-zA-Z0-9+/=%\n]{8,60}"]
}

fn encoded(secret: &str, form: usize) -> String {
    match form {
        0 => secret.to_owned(),
        1 => STANDARD.encode(secret),
        2 => URL_SAFE_NO_PAD.encode(format!("x{secret}")),
        3 => serde_json::to_string(secret).unwrap(),
        4 => secret.bytes().fold(String::new(), |text, byte| {
            if byte.is_ascii_alphanumeric() {
                text + std::str::from_utf8(&[byte]).unwrap()
            } else {
                format!("{text}%{byte:02X}")
            }
        }),
        _ => "ab".repeat(form),
    }
}

proptest! {
    #[test]
    fn streamed_is_the_same_as_whole(
        secrets in vec(secret(), 1..4),
        parts in vec((0..8_usize, any::<prop::sample::Index>(), "[ab\"%]{0,4}"), 0..12),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let redactor = Redactor::new(secrets.iter().map(|secret| secret.clone().into_bytes()));
        let mut text = String::new();
        for (form, which, between) in &parts {
            text += &encoded(&secrets[which.index(secrets.len())], *form);
            text += between;
        }
        let whole = redactor.redact(text.as_bytes());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut stream = redactor.stream();
        let mut out = Vec::new();
        for cut in cuts.windows(2) {
            stream.push(&text.as_bytes()[cut[0]..cut[1]], &mut out);
        }
        stream.finish(&mut out);
        prop_assert_eq!(&out, &whole);
        for secret in &secrets {
            let value = trimmed(secret.as_bytes());
            // What stands in a secret's place may not make one.
            if value.len() >= VALUE_BYTES_MIN {
                prop_assert!(!out.windows(value.len()).any(|window| window == value));
            }
        }
    }
}
