//! SECURITY.md names the tests that hold its promises, and they exist.

use std::fs::read_to_string;
use std::path::Path;

/// The file that a reference is to, and the test in it, if it names one.
fn place(reference: &str) -> Option<(String, Option<&str>)> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
    };
    match reference.rsplit_once("::") {
        Some((file, test)) if is_name(file) && is_name(test) => {
            Some((format!("tests/{file}.rs"), Some(test)))
        }
        Some((file, test)) if file.ends_with(".rs") => Some((file.to_owned(), Some(test))),
        None if reference.ends_with(".rs") => Some((reference.to_owned(), None)),
        _ => None,
    }
}

/// The tests that a text names between backticks and that are not there, and how many are.
fn check(text: &str) -> (Vec<&str>, usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let references = text.split('`').skip(1).step_by(2);
    let places = references.filter_map(|reference| Some((reference, place(reference)?)));
    let (there, missing): (Vec<_>, Vec<_>) = places.partition(|(_, (file, test))| {
        let source = read_to_string(root.join(file)).unwrap_or_default();
        let is_test = |test| {
            source.contains(&format!("#[test]\nfn {test}()"))
                || source.contains(&format!("#[test]\n    fn {test}()"))
        };
        !source.is_empty() && test.is_none_or(is_test)
    });
    (missing.into_iter().map(|(reference, _)| reference).collect(), there.len())
}

#[test]
fn every_promise_names_tests_that_exist() {
    let text = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md")).unwrap();
    assert_eq!(check(&text).0, Vec::<&str>::new(), "named, and not there");
    // A promise is an item of a list, up to the next one or an empty line.
    for paragraph in text.split("\n\n").filter(|paragraph| paragraph.starts_with("- ")) {
        for promise in paragraph[2..].split("\n- ") {
            assert!(check(promise).1 > 0, "no test holds: {promise}");
        }
    }
}

#[test]
fn test_that_does_not_exist_is_found_out() {
    let text = "`tests/security.rs`, `security::every_promise_names_tests_that_exist`, `fd::recv_descriptor`, `O_ASYNC`, `fuzz/none.rs`";
    assert_eq!(check(text), (vec!["fd::recv_descriptor", "fuzz/none.rs"], 2));
}
