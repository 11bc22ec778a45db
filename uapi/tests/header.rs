//! Compares `include/recordfd.h` with the contract in Rust, by way of the C compiler.
//!
//! One table names everything that both sides have. The C program that prints sizes, offsets and
//! values is made from it, and so is the check that neither side has anything else.

#![cfg(target_os = "linux")]

#[path = "header/compiler.rs"]
mod compiler;
#[path = "header/helpers.rs"]
mod helpers;
#[path = "header/reader.rs"]
mod reader;
#[path = "header/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use recordfd_uapi::Format;

use compiler::{C11, CXX17, VARIANTS, compile, compile_with, run, skip, works};
use table::{C_ONLY_DEFINES, C_ONLY_STRUCTS, FUNCTIONS, constants, structs};

const HEADER: &str = include_str!("../include/recordfd.h");

/// The C program that prints the layout, and what it has to print.
fn layout_program() -> (String, String) {
    let mut source = String::from(
        r##"#include "recordfd.h"
#include <stdio.h>
#define STRUCT(s) \
	printf(#s " %lu %lu\n", (unsigned long)sizeof(struct s), (unsigned long)_Alignof(struct s))
#define FIELD(s, f) \
	printf(#s "." #f " %lu %lu\n", (unsigned long)offsetof(struct s, f), \
	       (unsigned long)sizeof(((struct s *)0)->f))
#define NUMBER(n) printf(#n " %lld\n", (long long)(n))
#define TEXT(t) printf(#t " %s\n", t)
int main(void)
{
"##,
    );
    let mut expected = String::new();
    for item in structs() {
        writeln!(source, "\tSTRUCT({});", item.c).unwrap();
        writeln!(expected, "{} {} {}", item.c, item.size, item.align).unwrap();
        for field in item.fields {
            writeln!(source, "\tFIELD({}, {});", item.c, field.c).unwrap();
            writeln!(expected, "{}.{} {} {}", item.c, field.c, field.offset, field.size).unwrap();
        }
    }
    let mut number = |c: &str, value: &str| {
        let kind = if value.parse::<u64>().is_ok() { "NUMBER" } else { "TEXT" };
        writeln!(source, "\t{kind}({c});").unwrap();
        writeln!(expected, "{c} {value}").unwrap();
    };
    for constant in constants() {
        number(constant.c, &constant.value);
    }
    for format in Format::ALL.into_iter().chain([Format(u32::MAX), Format(0x8001_7fff)]) {
        let (id, version) = (format.id(), format.version());
        number(&format!("RECORDFD_FORMAT({id}, {version})"), &format.0.to_string());
        number(&format!("RECORDFD_FORMAT_ID({:#x})", format.0), &id.to_string());
        number(&format!("RECORDFD_FORMAT_VERSION({:#x})", format.0), &version.to_string());
    }
    number("RECORDFD_ITER_LINUX", "1");
    source.push_str("\treturn 0;\n}\n");
    (source, expected)
}

/// The first line that differs.
fn difference<'a>(found: &'a str, expected: &'a str) -> Option<(&'a str, &'a str)> {
    assert_eq!(found.lines().count(), expected.lines().count());
    found.lines().zip(expected.lines()).find(|(found, expected)| found != expected)
}

#[test]
fn layout_and_constants_are_those_of_rust() {
    let (source, expected) = layout_program();
    for (name, flags) in VARIANTS.iter() {
        let flags = [&C11, flags.as_slice()].concat();
        let program = compile(&format!("layout-{name}"), "gcc", &flags, &source).unwrap();
        assert_eq!(difference(&run(&program, ""), &expected), None, "{name}");
    }
}

#[test]
fn header_alone_compiles_everywhere_without_a_warning() {
    let source = "#include <recordfd.h>\n";
    let gnu = "-Wgnu-variable-sized-type-not-at-end";
    let with_iommufd = "#include <linux/iommufd.h>\n#include <recordfd.h>\n";
    let mut compilers = vec![("gcc", C11.to_vec()), ("g++", CXX17.to_vec())];
    compilers.push(("clang", [&C11[..], &[gnu]].concat()));
    compilers.push(("clang++", [&CXX17[..], &[gnu]].concat()));
    for (compiler, flags) in compilers {
        for width in [&[][..], &["-m32"]] {
            let title = [&[compiler], width].concat().join(" ");
            if title != "gcc" && !works(compiler, width) {
                skip(&format!("{title} makes no programs here"));
                continue;
            }
            let flags = [&flags[..], width, &["-c"]].concat();
            let name = format!("alone-{title}").replace(' ', "");
            compile(&name, compiler, &flags, source).unwrap();
            let probe = "#include <linux/iommufd.h>\n";
            if compile(&format!("{name}-probe"), compiler, &flags, probe).is_ok() {
                compile(&format!("{name}-iommufd"), compiler, &flags, with_iommufd).unwrap();
            } else {
                skip(&format!("{title} finds no <linux/iommufd.h>"));
            }
        }
    }
}

/// Compiles the layout program with a header in which `from` became `to`.
fn with_altered_header(name: &str, from: &str, to: &str) -> Result<PathBuf, String> {
    assert!(HEADER.contains(from), "{from}");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("recordfd.h"), HEADER.replacen(from, to, 1)).unwrap();
    compile_with(&dir, name, "gcc", &C11, &layout_program().0)
}

#[test]
fn wrong_header_is_found_out() {
    let wrong = "#include <recordfd.h>\n\
        _Static_assert(sizeof(struct recordfd_event_header) == 9, \"size\");\nint main(void) { return 0; }\n";
    let error = compile("wrong-assert", "gcc", &C11, wrong).unwrap_err();
    assert!(error.contains("static assertion failed"), "{error}");

    let error = with_altered_header("wrong-size", "__u32 value;", "__u64 value;").unwrap_err();
    assert!(error.contains("struct recordfd_acpi_notify"), "{error}");

    let (_, expected) = layout_program();
    let from = "RECORDFD_TRANSPORT_SHARED 3";
    let program = with_altered_header("wrong-value", from, "RECORDFD_TRANSPORT_SHARED 5").unwrap();
    let found = run(&program, "");
    assert_eq!(difference(&found, &expected), Some(("RECORDFD_TRANSPORT_SHARED 5", from)));

    // The asserts move along with the names, so only the comparison with Rust can tell.
    let swapped = HEADER
        .replace("records_offset", "swapped")
        .replace("replies_offset", "records_offset")
        .replace("swapped", "replies_offset");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrong-order");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("recordfd.h"), swapped).unwrap();
    let program = compile_with(&dir, "wrong-order", "gcc", &C11, &layout_program().0).unwrap();
    assert_eq!(
        difference(&run(&program, ""), &expected),
        Some(("recordfd_offer.records_offset 40 8", "recordfd_offer.records_offset 32 8"))
    );
}

/// What a header declares.
#[derive(Default)]
struct Declared {
    defines: BTreeSet<String>,
    structs: BTreeMap<String, BTreeSet<String>>,
    functions: BTreeSet<String>,
}

fn without_comments(mut text: &str) -> String {
    let mut code = String::new();
    while let Some((before, comment)) = text.split_once("/*") {
        code.push_str(before);
        text = comment.split_once("*/").unwrap().1;
    }
    code + text
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn declared(header: &str) -> Declared {
    let mut declared = Declared::default();
    let code = without_comments(header);
    for function in code.split("static inline ").skip(1) {
        let name = function.split('(').next().unwrap().rsplit([' ', '*', '\n']).next().unwrap();
        declared.functions.insert(name.into());
    }
    let mut inside = None;
    for line in code.lines() {
        let line = line.trim();
        assert!(
            !["enum ", "union ", "typedef "].iter().any(|other| line.starts_with(other)),
            "this parser does not know: {line}"
        );
        if let Some(define) = line.strip_prefix("#define ") {
            declared.defines.insert(word(define));
        } else if let Some(name) = line.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {")) {
            declared.structs.insert(name.into(), BTreeSet::new());
            inside = Some(name.to_owned());
        } else if line == "};" {
            inside = None;
        } else if let Some(name) = &inside {
            let last = line.rsplit([' ', '*']).next().unwrap();
            assert!(!line.contains(',') && last.ends_with(';'), "this parser does not know: {line}");
            declared.structs.get_mut(name).unwrap().insert(word(last));
        }
    }
    declared
}

/// What the header has and the table has not, or the other way round.
fn uncovered(header: &str) -> Vec<String> {
    let found = declared(header);
    let mut known = Declared::default();
    known.functions.extend(FUNCTIONS.map(String::from));
    known.defines.extend(C_ONLY_DEFINES.map(String::from));
    known.defines.extend(constants().iter().map(|constant| constant.c.to_owned()));
    for (name, fields) in C_ONLY_STRUCTS {
        known.structs.insert(name.into(), fields.iter().map(|field| (*field).into()).collect());
    }
    for item in structs() {
        let fields = item.fields.iter().map(|field| field.c.into()).collect();
        known.structs.insert(item.c.into(), fields);
    }
    let flat = |declared: &Declared| -> BTreeSet<String> {
        let fields = declared.structs.iter().flat_map(|(name, fields)| {
            fields.iter().map(move |field| format!("{name}.{field}")).chain([name.clone()])
        });
        declared.defines.iter().cloned().chain(declared.functions.iter().cloned()).chain(fields).collect()
    };
    flat(&found).symmetric_difference(&flat(&known)).cloned().collect()
}

#[test]
fn nothing_in_the_header_is_left_out() {
    assert_eq!(uncovered(HEADER), [""; 0]);
    for (from, to, left_out) in [
        ("#define RECORDFD_TRANSPORT_KERNEL 4\n", "#define RECORDFD_NEW 4\n", "RECORDFD_NEW"),
        ("\t__u32 count;\n};", "\t__u32 count;\n\t__u8 tail[4];\n};", "recordfd_device_request.tail"),
        ("struct recordfd_iter {", "struct recordfd_new {\n};\nstruct recordfd_iter {", "recordfd_new"),
        ("int recordfd_iter_next(", "int recordfd_iter_back(", "recordfd_iter_back"),
    ] {
        assert!(HEADER.contains(from), "{from}");
        let found = uncovered(&HEADER.replacen(from, to, 1));
        assert!(found.iter().any(|name| name == left_out), "{left_out}: {found:?}");
    }
}

/// Constants of the crate's modules, code and flag types, and its pinned structs, as its source has
/// them. Not those of `hw`, whose records are no channel's: of them the header has the answers' codes.
fn declared_in_rust() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_dir() {
            continue;
        }
        let source = fs::read_to_string(file.path()).unwrap();
        let mut owner = None;
        for line in source.lines().map(str::trim_end) {
            let item = line.trim_start();
            if let Some(rest) = line.strip_prefix("pin_layout!(") {
                names.insert(word(rest));
            } else if let Some(rest) = line.strip_prefix("pub const ").filter(|rest| !rest.contains("fn ")) {
                names.insert(format!("const {}", word(rest)));
            } else if line == "wire_code! {" || line == "wire_flags! {" {
                owner = Some(String::new());
            } else if line == "}" {
                owner = None;
            } else if let Some(name) = &mut owner {
                match item.split_once(" = ") {
                    _ if item.starts_with("//") => {}
                    Some((constant, _)) => {
                        names.insert(format!("{name}::{constant}"));
                    }
                    None if item.ends_with('{') => *name = word(item),
                    None => {}
                }
            }
        }
    }
    names
}

#[test]
fn nothing_in_rust_is_left_out() {
    let declared = declared_in_rust();
    for sample in
        ["Offer", "PciErrorStep::RESUME", "PgFaultPerm::PRIV", "Transport::KERNEL", "const WRITE_MAX"]
    {
        assert!(declared.contains(sample), "{sample}: {declared:?}");
    }
    let structs = structs();
    let constants = constants();
    for name in declared {
        let known = match name.split_once("::") {
            None if name.starts_with("const ") => {
                let last = |rust: &'static str| rust.rsplit([':', ' ']).next();
                constants.iter().any(|constant| last(constant.rust) == name.strip_prefix("const "))
            }
            Some(_) => constants.iter().any(|constant| {
                constant.rust.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }),
            None => structs
                .iter()
                .any(|item| [&name, &format!("Event<{name}>")].iter().any(|known| **known == item.rust)),
        };
        assert!(known, "{name} is not in the table");
    }
    for format in Format::ALL {
        assert!(constants.iter().any(|constant| constant.value == format.0.to_string()), "{format}");
    }
}

#[test]
fn every_struct_and_function_is_documented() {
    let comment_before = |declaration: &str| {
        let before = &HEADER[..HEADER.find(declaration).unwrap()];
        let comment = &before[before.rfind("/**").unwrap()..];
        assert!(comment.trim_end().ends_with("*/"), "no comment before {declaration}");
        comment.to_owned()
    };
    let declared = declared(HEADER);
    for (name, fields) in &declared.structs {
        let comment = comment_before(&format!("\nstruct {name} {{"));
        assert!(comment.contains(&format!("* struct {name} - ")), "{name}");
        for field in fields {
            assert!(comment.contains(&format!(" * @{field}: ")), "{name}.{field}");
        }
    }
    for name in &declared.functions {
        let before = &HEADER[..HEADER.find(&format!("{name}(struct")).unwrap_or_else(|| {
            HEADER.find(&format!("{name}(__u32")).or_else(|| HEADER.find(&format!("{name}(const"))).unwrap()
        })];
        let comment = &before[before.rfind("/**").unwrap()..];
        assert!(comment.contains(&format!("* {name}() - ")), "{name}");
    }
}
