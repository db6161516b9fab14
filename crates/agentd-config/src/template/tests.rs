use super::*;
use serde_json::json;
use std::path::Path;

fn rendered(text: &str, variables: serde_json::Value) -> Result<String, String> {
    let template = Template::parse(text).map_err(|error| error.in_text(text))?;
    template
        .render(&variables, 1 << 20)
        .map_err(|error| error.message)
}

#[test]
fn only_two_braces_are_a_template() {
    for text in ["${#a[@]} {%s} {# no #} {% if %}", "}} { { x } }", "", "{", "a\n"] {
        assert_eq!(rendered(text, json!({})).unwrap(), text);
    }
    assert_eq!(rendered("{{ \"{{\" }}.Names}}", json!({})).unwrap(), "{{.Names}}");
    assert_eq!(
        rendered("a {{- x -}} \n b{{ x }}\n", json!({"x": 1})).unwrap(),
        "a1b1\n"
    );
    assert_eq!(
        rendered("{{ {'a': {'b': x}} }}", json!({"x": 1})).unwrap(),
        r#"{"a":{"b":1}}"#
    );
}

#[test]
fn strings_are_put_in_as_they_are_and_all_else_as_json() {
    let value = json!({"s": "a\"{{ t }}", "t": true, "n": null, "l": ["a", 1.5, {"b": []}], "i": 7});
    assert_eq!(
        rendered("{{ s }} {{ t }} {{ n }} {{ l }} {{ i }}", value).unwrap(),
        r#"a"{{ t }} true null ["a",1.5,{"b":[]}] 7"#
    );
}

#[test]
fn what_is_not_there_is_named() {
    let error = rendered("{{ a.x }} {{ a['y-z'].q }}", json!({"a": {"x": 1}})).unwrap_err();
    assert_eq!(error, "there is nothing called a.y-z.q");
    assert!(
        rendered("{{ b | upper }}", json!({}))
            .unwrap_err()
            .contains("called b")
    );
    assert_eq!(rendered("{{ b | default('d') }}", json!({})).unwrap(), "d");
}

#[test]
fn names_are_found_however_they_are_written() {
    let names = |text: &'static str| -> Vec<(String, bool)> {
        let template = Template::parse(text).unwrap();
        template
            .names()
            .iter()
            .map(|name| (name.dotted(), name.is_open))
            .collect()
    };
    assert_eq!(
        names("{{ inputs.a }} {{ inputs['b-c'].d | join(args.x) }}"),
        [
            ("inputs.a".to_owned(), false),
            ("inputs.b-c.d".to_owned(), false),
            ("args.x".to_owned(), false)
        ]
    );
    assert_eq!(names("{{ inputs[args.x] }}")[0], ("inputs".to_owned(), true));
    assert_eq!(names("{{ 'inputs.a' ~ x.inputs }} inputs.a").len(), 1);
}

#[test]
fn a_mistake_stands_where_its_braces_do_and_says_how_to_write_them() {
    let text = "a = 1\nb = [\"x\", \"\\\"\u{e9}{{.Names}}\"]\nc = '''\n{{ok}}\n {{.Names}}'''\n";
    let source = Source {
        path: Path::new("p.toml"),
        text,
    };
    let at = |start: &str, end: &str| {
        let from = text.find(start).unwrap();
        from..from + text[from..].find(end).unwrap() + end.len()
    };
    let basic = Located {
        value: "\"\u{e9}{{.Names}}".to_owned(),
        span: at("\"\\\"", "}}\""),
    };
    let error = Template::parse(&basic.value)
        .unwrap_err()
        .in_file(source, "b", &basic);
    assert_eq!((error.line, error.column), (2, 15), "{error}");
    assert!(
        error.message.contains("`{{.Names}}` is not a template"),
        "{error}"
    );
    assert!(error.message.ends_with("write {{ '{{' }}"), "{error}");
    let literal = Located {
        value: "{{ok}}\n {{.Names}}".to_owned(),
        span: at("'''", "}}'''"),
    };
    let error = Template::parse(&literal.value)
        .unwrap_err()
        .in_file(source, "c", &literal);
    assert_eq!((error.line, error.column), (5, 2), "{error}");
    assert!(error.message.ends_with("write {{ \"{{\" }}"), "{error}");
    let error = Template::parse("a\n {{ x").unwrap_err().in_text("a\n {{ x");
    assert!(error.starts_with("line 2, column 2: "), "{error}");
}

#[test]
fn no_expression_is_too_much_for_a_small_stack() {
    // One of each kind that nests when it is compiled, as long as it may be, and far longer.
    let kinds: [(&str, &str, &str); 12] = [
        ("", "a+", "a"),
        ("", "a.", "a"),
        ("", "not ", "a"),
        ("", "-", "a"),
        ("", "(", "a"),
        ("", "[", "a"),
        ("a", "|f", ""),
        ("a", "[0]", ""),
        ("a", "()", ""),
        ("", "a if b else ", "a"),
        ("", "a~", "a"),
        ("", "1**", "1"),
    ];
    let check = move || {
        for (begin, repeated, end) in kinds {
            for times in [30, 60, 85, 127, 200, 100_000] {
                let text = format!("{{{{{begin}{}{end}}}}}", repeated.repeat(times));
                if let Ok(template) = Template::parse(&text) {
                    let _ = template.render(&json!({"a": 1}), 100);
                    let _ = template.names();
                }
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(check)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn every_text_is_bounded() {
    let long = format!("{{{{ '{}' }}}}", "x".repeat(EXPRESSION_BYTES_MAX));
    assert!(Template::parse(&long).unwrap_err().message.contains("4096"));
    let chain = format!("{{{{ {}1 }}}}", "1+".repeat(EXPRESSION_TOKENS_MAX));
    assert!(Template::parse(&chain).unwrap_err().message.contains("256"));
    let deep = format!("{{{{ {} }}}}", "[".repeat(EXPRESSION_NESTING_MAX + 1));
    assert!(Template::parse(&deep).unwrap_err().message.contains("32"));
    assert!(
        Template::parse(&"{{1}}".repeat(EXPRESSIONS_MAX + 1))
            .unwrap_err()
            .message
            .contains("10000")
    );
    assert!(
        rendered("{{ 'x' * 1000 * 1000 }}{{ 'x' * 100000 }}", json!({})).is_err()
            && rendered("{{ 'x' * 99999999999 }}", json!({})).is_err()
    );
    assert!(Template::parse(&"{{(".repeat(100_000)).is_err());
}
