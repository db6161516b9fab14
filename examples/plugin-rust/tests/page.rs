//! docs/plugins.md shows these files; what it shows is what is compiled and tested.

#[test]
fn the_page_shows_what_is_tested() {
    let page = include_str!("../../../docs/plugins.md");
    for (file, text) in [
        ("Cargo.toml", include_str!("../Cargo.toml")),
        ("src/main.rs", include_str!("../src/main.rs")),
        ("tests/plugin.rs", include_str!("plugin.rs")),
        ("notes.py", include_str!("../../plugin-python/notes.py")),
        ("test_notes.py", include_str!("../../plugin-python/test_notes.py")),
    ] {
        assert!(
            page.contains(text),
            "docs/plugins.md does not show {file} as it is"
        );
    }
}
